"""What a model answers to the calls of insights, and the bodies that it was sent."""

from typing import Any

from views.gateway.api.internal_calls import CallFailed, InternalAnswer


class ModelAnswers:
    """Takes the place of `complete_chat`: says `texts` one after another, None for a call that fails."""

    def __init__(self) -> None:
        self.texts: list[str | None] = []
        self.bodies: list[dict[str, Any]] = []

    def __call__(self, key: object, body: dict[str, Any], *, client_id: str, **more: Any) -> InternalAnswer:
        self.bodies.append({**body, "client_id": client_id, **more})
        text = self.texts.pop(0)
        if text is None:
            raise CallFailed("The provider is down.")
        return InternalAnswer("call1", text)
