"""The dialects requests and answers are written in; chat completions for now."""

from models.gateway.wire.call import BadCall, Call, Failure, Meter
from models.gateway.wire.chat import ChatMeter
from models.gateway.wire.failures import failure_in, failure_of
from models.gateway.wire.usage import Usage, read_usage, told_usage, usage_object

__all__ = [
    "BadCall",
    "Call",
    "ChatMeter",
    "Failure",
    "Meter",
    "Usage",
    "failure_in",
    "failure_of",
    "read_usage",
    "told_usage",
    "usage_object",
]
