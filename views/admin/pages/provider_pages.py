"""`/admin/providers`: how providers answer, by model, and their failed calls."""

from dataclasses import dataclass
from urllib.parse import urlsplit

from flask import current_app, request, url_for
from flask.typing import ResponseReturnValue

from models.core.db import now
from models.core.errors import NotFound
from models.gateway import provider_health
from models.gateway.metrics import open_upstreams
from models.gateway.provider_health import WINDOWS, Health, ProviderFault, Window
from models.gateway.providers.demo import DemoProvider
from models.gateway.providers.provider import Provider
from views.admin.pages.admin_blueprint import bp
from views.gateway.api.model_calls import gateway
from views.web import format
from views.web.guards import admin_required
from views.web.htmx import render
from views.web.keyset import cursor, cursor_text

PAGE = 50
TALL = 28
WIDE = 112
NAMES = {
    "timeout": ("timeout", "timeouts"),
    "unreachable": ("unreachable", "unreachable"),
    "interrupted": ("broken off", "broken off"),
    "rate_limited": ("rate limited", "rate limited"),
    "server_error": ("server error", "server errors"),
    "left_alone": ("not tried", "not tried"),
    "rejected": ("request refused", "requests refused"),
    "other": ("other", "other"),
}
"""Classes of errors in words, of one call and of several."""


@dataclass(frozen=True, slots=True)
class TrendPaths:
    """A trend as SVG paths: the background, calls, and the part of them that is the provider's fault."""

    track: str
    calls: str
    faults: str


@dataclass(frozen=True, slots=True)
class ModelRow:
    """A model of a provider in the window; `errors` in words."""

    model: str
    health: Health
    errors: str
    trend: TrendPaths


@dataclass(frozen=True, slots=True)
class ProviderCard:
    """A provider: the setting with its key, if it needs one, whether it can be used, its host, and its figures. `more` models are
    left out; `open` counts by model the workers in which its circuit breaker is open."""

    name: str
    title: str
    host: str
    setting: str
    ready: bool
    whole: ModelRow | None
    models: list[ModelRow]
    more: int
    fault: ProviderFault | None
    open: dict[str, int]


@bp.get("/providers")
@admin_required
def provider_list() -> ResponseReturnValue:
    """Providers and their models. Query: `window` (1h, 24h or 7d)."""
    window = _window()
    found = provider_health.health_of(window, now())
    known = gateway(current_app).routes.providers
    faults = provider_health.last_faults([name for name in (*known, *found) if found.get(name)])
    names = [*known, *(name for name in found if name not in known)]
    breakers = open_upstreams()
    cards = [
        _card(name, known.get(name), found.get(name, {}), faults.get(name), breakers.get(name, {}))
        for name in names
    ]
    cards.sort(key=lambda card: -card.whole.health.calls if card.whole else 0)
    return render(
        "admin/providers.html",
        window=window,
        windows=list(WINDOWS),
        cards=[card for card in cards if card.ready or card.whole],
        without_key=[card for card in cards if not card.ready and not card.whole],
        until=provider_health.counted_until(),
    )


@bp.get("/providers/<name>")
@admin_required
def provider_faults(name: str) -> ResponseReturnValue:
    """Calls that failed or were cut at a provider. Query: `model`, `before` (cursor)."""
    provider = gateway(current_app).routes.providers.get(name)
    if provider is None:
        raise NotFound("There is no such provider.")
    model = request.args.get("model", "").replace("\0", "") or None
    faults = provider_health.provider_faults(name, model=model, before=cursor(), limit=PAGE + 1)
    more = None
    if len(faults) > PAGE:
        last = faults[PAGE - 1].call
        more = url_for(
            ".provider_faults", name=name, model=model, before=cursor_text(last.finished_at, last.request_id)
        )
    return render(
        "admin/provider_faults.html",
        partial="admin/_provider_faults.html",
        name=name,
        title=provider.title,
        model=model,
        faults=faults[:PAGE],
        more=more,
    )


def _window() -> Window:
    window = request.args.get("window") or "24h"
    if window not in WINDOWS:
        raise NotFound("There is no such period.")
    return window


def _card(
    name: str,
    provider: Provider | None,
    models: dict[str, Health],
    fault: ProviderFault | None,
    open: dict[str, int],
) -> ProviderCard:
    rows = [_row(model, health) for model, health in models.items() if model]
    rows.sort(key=lambda row: (-row.health.calls, row.model))
    return ProviderCard(
        name=name,
        title=provider.title if provider else name,
        host=urlsplit(provider.endpoint.base_url).hostname or "" if provider else "",
        setting=provider.key_setting if provider and not isinstance(provider, DemoProvider) else "",
        ready=provider is not None and (provider.ready or isinstance(provider, DemoProvider)),
        whole=_row("", models[""]) if models else None,
        models=rows,
        more=models[""].models - len(rows) if models else 0,
        fault=fault,
        open=open,
    )


def _row(model: str, health: Health) -> ModelRow:
    errors = sorted(health.errors.items(), key=lambda each: -each[1])
    words = ", ".join(f"{format.number(count)} {NAMES[error][count != 1]}" for error, count in errors)
    return ModelRow(model, health, words, _paths(health.trend))


def _paths(trend: list[tuple[int, int]]) -> TrendPaths:
    peak = max((calls for calls, _ in trend), default=0) or 1
    step = WIDE / (len(trend) or 1)
    track, bars, bad = [], [], []
    for index, (calls, faults) in enumerate(trend):
        x, width = round(index * step, 1), round(step - 1, 1)
        track.append(f"M{x} 0h{width}v{TALL}h-{width}z")
        if calls:
            bars.append(_bar(x, width, max(round(TALL * calls / peak), 1)))
        if faults:
            bad.append(_bar(x, width, max(round(TALL * faults / peak), 2)))
    return TrendPaths("".join(track), "".join(bars), "".join(bad))


def _bar(x: float, width: float, tall: int) -> str:
    return f"M{x} {TALL - tall}h{width}v{tall}h-{width}z"
