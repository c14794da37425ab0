"""Formats of conversations: how each API spells requests, answers and usage.

A format reads its requests into the normal form (`models/gateway/conversation`) and writes them from it, and does the same with
answers. Dialects use them where a client's format is not the provider's.
"""
