"""The dialects in which clients ask for answers and read them, one a file."""

from models.gateway.dialects.chat import ChatDialect
from models.gateway.dialects.codebuff import CodebuffDialect

CHAT, CODEBUFF = ChatDialect(), CodebuffDialect()
