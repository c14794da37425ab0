"""The domain. Importing it imports every room, so that the metadata is complete."""
