"""Projects: manifests, bytes, snapshots, workspaces, operations and their API."""
