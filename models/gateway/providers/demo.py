"""Stoa's built-in demo models, available without any provider key."""

from typing import Any

from models.gateway.chat_format import Call
from models.gateway.pricing import ModelPrice, flat
from models.gateway.providers.provider import Provider

MODEL, EMBEDDINGS = "stoa/demo", "stoa/demo-embeddings"
MODELS = (MODEL, EMBEDDINGS)
_PRICES = {MODEL: flat(3, 15), EMBEDDINGS: flat("0.1", 0)}


class DemoProvider(Provider):
    """Serves `stoa/demo`, at the price of a mid-range model, so that a page of text costs whole credits, and `stoa/demo-embeddings`."""

    name = "stoa"
    title = "Stoa"
    table = "stoa"
    prefixes = ("stoa",)
    native_n = True
    max_output = 8_192

    @property
    def ready(self) -> bool:
        return True

    @property
    def formats(self) -> tuple[str, ...]:
        return ("chat", "embeddings")

    def own_price(self, requested: str, upstream: str) -> ModelPrice | None:
        return _PRICES.get(upstream)

    def upstream_model(self, model: str) -> str:
        return EMBEDDINGS if model.lower() == EMBEDDINGS else MODEL

    def public_model(self, model: str) -> str:
        return self.upstream_model(model)

    def rewrite(self, call: Call, model: str) -> tuple[dict[str, Any], list[str]]:
        return {**call.body, "model": model, "stream": call.stream}, []
