"""OpenAI chat completions: parsing requests, extracting usage, output and errors from responses."""

from models.gateway.chat_format.call import (
    BadCall,
    Call,
    KeptAnswer,
    ProviderFailure,
    UploadedFile,
    UsageMeter,
)
from models.gateway.chat_format.chat_parsing import ChatMeter
from models.gateway.chat_format.failures import find_failure, parse_failure
from models.gateway.chat_format.request_definitions import request_definitions
from models.gateway.chat_format.request_parameters import CONVERSATION, request_parameters
from models.gateway.chat_format.token_usage import Usage, client_usage, read_usage, usage_object

__all__ = [
    "CONVERSATION",
    "BadCall",
    "Call",
    "ChatMeter",
    "KeptAnswer",
    "ProviderFailure",
    "UploadedFile",
    "Usage",
    "UsageMeter",
    "client_usage",
    "find_failure",
    "parse_failure",
    "read_usage",
    "request_definitions",
    "request_parameters",
    "usage_object",
]
