"""Dialects: the API formats of clients, one per file."""

from models.gateway.dialects.chat import ChatDialect
from models.gateway.dialects.codebuff import CodebuffDialect

CHAT, CODEBUFF = ChatDialect(), CodebuffDialect()
