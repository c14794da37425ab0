"""Dialects: the API formats of clients, one per file."""

from models.gateway.dialects.chat import ChatDialect, PlaygroundDialect
from models.gateway.dialects.codebuff import CodebuffDialect
from models.gateway.dialects.messages import MessagesDialect
from models.gateway.dialects.responses import ResponsesDialect

CHAT, CODEBUFF, PLAYGROUND = ChatDialect(), CodebuffDialect(), PlaygroundDialect()
MESSAGES, RESPONSES = MessagesDialect(), ResponsesDialect()
