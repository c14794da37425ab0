"""The dialects in which clients ask for answers and read them, one a file."""

from models.gateway.dialects.chat import Chat
from models.gateway.dialects.codebuff import Codebuff

CHAT, CODEBUFF = Chat(), Codebuff()
