"""Automatic top-up: its settings, its charges and their e-mails."""
