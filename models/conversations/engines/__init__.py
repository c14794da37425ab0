"""Engines of conversations beside the server's own loop: commands that speak the Agent Client Protocol, and agents of the store."""
