"""Searches that agents make through this server: the web, and the documentation of libraries (contract 2.5)."""
