"""Entry points of conversations with agents about projects."""
