"""The dialects requests and answers are written in; chat completions for now."""

from models.gateway.chat_format.call import BadCall, Call, ProviderFailure, UsageMeter
from models.gateway.chat_format.chat_parsing import ChatMeter
from models.gateway.chat_format.failures import failure_in, failure_of
from models.gateway.chat_format.token_usage import Usage, read_usage, told_usage, usage_object

__all__ = [
    "BadCall",
    "Call",
    "ChatMeter",
    "ProviderFailure",
    "Usage",
    "UsageMeter",
    "failure_in",
    "failure_of",
    "read_usage",
    "told_usage",
    "usage_object",
]
