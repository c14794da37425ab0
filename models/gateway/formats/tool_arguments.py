"""Arguments of calls of tools, as objects."""

from typing import Any

from models.gateway.conversation import ToolCallPart
from models.gateway.lenient_json import NotJson, read


def arguments_of(call: ToolCallPart) -> Any:
    """The arguments of a call as an object: Anthropic and Google take nothing else."""
    if call.custom:
        return {"input": call.arguments}
    try:
        value = read(call.arguments.encode("utf-8", "replace")).value if call.arguments.strip() else {}
    except NotJson:
        return {"arguments": call.arguments}
    return value if isinstance(value, dict) else {"arguments": value}
