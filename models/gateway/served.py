"""Who served a call, and why: the header `X-Stoa-Served`, and what is stored with the call."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from models.gateway.route import Route

SERVED = "X-Stoa-Served"
PLAIN = " !#$%&'()*+,-./:;<=>?@[]^_`{|}~"
"""Characters besides letters and digits that are not quoted in the header."""


@dataclass(slots=True)
class RouteTrail:
    """How a call found its provider. `why`: `model` (asked for by name), `alias`, `weight`, or `sticky`; `after`: what was
    tried before, as provider, model and error."""

    asked: str
    why: str
    after: list[tuple[str, str, str]] = field(default_factory=list)

    def header(self, route: Route) -> str:
        """The header's value, a dictionary of RFC 8941: what was asked for, who serves it, and why."""
        provider, model = route.provider.name, _quoted(route.model)
        text = f'asked="{_quoted(self.asked)}", provider="{provider}", model="{model}", why="{self.reason}"'
        if not self.after:
            return text
        after = "; ".join(f"{provider}/{_quoted(model)} {error}" for provider, model, error in self.after)
        return f'{text}, after="{after}"'

    @property
    def reason(self) -> str:
        """Why this provider serves the call."""
        return "fallback" if self.after else self.why

    def record(self) -> Mapping[str, Any] | None:
        """What is stored with the call; None for a model that was asked for by name and served at once."""
        if self.why == "model" and not self.after:
            return None
        after = [
            {"provider": provider, "model": model, "error": error} for provider, model, error in self.after
        ]
        return {"why": self.why, **({"after": after} if after else {})}


def _quoted(name: str) -> str:
    if name.isascii() and '"' not in name and "\\" not in name:
        return name
    return quote(name, safe=PLAIN)
