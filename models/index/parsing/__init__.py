"""Parsers of documents. They run in a process of their own (`parser_process`) and import nothing of the application."""
