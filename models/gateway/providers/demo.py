"""Stoa's built-in demo model, available without any provider key."""

from typing import Any

from models.gateway.chat_format import Call
from models.gateway.pricing import ModelPrice, flat
from models.gateway.providers.provider import Provider

MODEL = "stoa/demo"
_PRICE = flat(3, 15)


class DemoProvider(Provider):
    """Serves `stoa/demo`, at the price of a mid-range model, so that a page of text costs whole credits."""

    name = "stoa"
    title = "Stoa"
    table = "stoa"
    prefixes = ("stoa",)
    native_n = True
    max_output = 8_192

    @property
    def ready(self) -> bool:
        return True

    def own_price(self, requested: str, upstream: str) -> ModelPrice | None:
        return _PRICE

    def upstream_model(self, model: str) -> str:
        return MODEL

    def public_model(self, model: str) -> str:
        return MODEL

    def rewrite(self, call: Call, model: str) -> tuple[dict[str, Any], list[str]]:
        return {**call.body, "model": model, "stream": call.stream}, []
