"""The dialects in which clients ask for answers and read them, one a file."""

from models.gateway.dialects.base import (
    CallRequest,
    Context,
    Dialect,
    ErrorAnswer,
    NoKey,
    Received,
    Reply,
    StreamTranslator,
    Unreadable,
    WholeAnswer,
)
from models.gateway.dialects.chat import Chat
from models.gateway.dialects.codebuff import Codebuff

__all__ = [
    "CHAT",
    "CODEBUFF",
    "CallRequest",
    "Context",
    "Dialect",
    "ErrorAnswer",
    "NoKey",
    "Received",
    "Reply",
    "StreamTranslator",
    "Unreadable",
    "WholeAnswer",
]

CHAT, CODEBUFF = Chat(), Codebuff()
