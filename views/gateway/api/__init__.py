"""The APIs of model calls: one module per door."""
