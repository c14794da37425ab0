"""Entry points of documents: their pages, JSON routes and commands."""
