"""What a model answers when it is to describe a part of a project, and the requests that it got."""

import json
from collections.abc import Callable
from typing import Any

from models.runs.internal_chat import CallFailed, CallNotPossible, InternalAnswer

CARET = {
    "text": "It turns text into cents.",
    "citations": [{"path": "shop/money.py", "line": 5, "symbol": "to_cents"}],
}


class WordsAnswers:
    """Takes the place of `chat_once`: says `texts` one after another, None for a provider that is down, 402 for no credits; `meanwhile` happens
    while the model writes."""

    def __init__(self) -> None:
        self.texts: list[Any] = []
        self.calls: list[dict[str, Any]] = []
        self.meanwhile: Callable[[], None] | None = None

    def __call__(self, key: str, body: dict[str, Any], **more: Any) -> InternalAnswer:
        self.calls.append({"key": key, "body": body, **more})
        if self.meanwhile is not None:
            self.meanwhile()
        text = self.texts.pop(0)
        if text is None:
            raise CallFailed("The provider is down.")
        if text == 402:
            raise CallNotPossible("Not enough credits.", status=402, code="insufficient_credits")
        return InternalAnswer(f"call{len(self.calls)}", text if isinstance(text, str) else json.dumps(text))

    @property
    def facts(self) -> dict[str, Any]:
        """What the model was shown last."""
        return dict(json.loads(self.calls[-1]["body"]["messages"][1]["content"]))
