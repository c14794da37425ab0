"""Statements: entries with their causes, days, months and what expires next."""
