"""The base of meters of formats other than chat completions."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from models.gateway.chat_format import ProviderFailure, Usage
from models.gateway.chat_format.output import GeneratedOutput


class FormatMeter:
    """See `UsageMeter`; subclasses read events and bodies. Output is counted as deltas of chat completions."""

    provider: str | None = None

    def __init__(self) -> None:
        self.id: str | None = None
        self.model: str | None = None
        self.created: int | None = None
        self.failure: ProviderFailure | None = None
        self.output = GeneratedOutput()
        self.started = False
        self.billed = False
        self.amended = False
        self.raw_usage: Mapping[str, Any] | None = None
        self.reported: Usage | None = None
        self.served: tuple[str, ...] = ()

    @property
    def finished(self) -> bool:
        """The answer has its reason of the end."""
        raise NotImplementedError

    @property
    def ended(self) -> bool:
        return self.finished

    @property
    def empty(self) -> bool:
        return not self.started and not (self.finished and self.reported is not None)

    def usage(self) -> Usage | None:
        return self.reported if self.billed else None

    @property
    def cost(self) -> Decimal | None:
        return None

    @property
    def answer(self) -> Any:
        text, calls = self.output.text.joined(), self.output.tool_calls()
        return {"role": "assistant", "content": text, "tool_calls": calls} if calls else text

    @property
    def reasoning(self) -> str:
        return self.output.reasoning.joined()

    def add(self, delta: Mapping[str, Any]) -> None:
        """Add output, after which usage reported before is not the last."""
        if self.output.add(0, delta):
            self.started = True
            self.billed = False

    def add_call(self, index: Any, function: Mapping[str, Any], id: Any = None) -> None:
        """Add to the call of a tool with this number."""
        call = {"index": index if type(index) is int else 0, "type": "function", "function": function}
        self.add({"tool_calls": [call | ({"id": id} if id else {})]})
