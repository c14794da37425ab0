"""The page of models (what this server serves, who provides it, what it costs), and the guide to clients."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from flask import Blueprint, current_app, request, url_for
from flask.typing import ResponseReturnValue

from models.accounts import Session, credentials
from models.core.db import now
from models.core.errors import NotFound
from models.gateway import model_names
from models.gateway.client_guide import KEY, MODEL, guide
from models.gateway.model_abilities import ABILITIES
from models.gateway.model_catalogue import (
    BUCKETS,
    PAGE_WORDS,
    SORTS,
    ModelFilter,
    ServedModel,
    find_models,
    served_models,
    unit_title,
)
from models.gateway.model_suggestion import suggested_model
from models.gateway.providers.provider import Provider
from models.gateway.routing import Router
from models.orgs import memberships
from views.gateway.api.model_calls import gateway
from views.web.assets import site
from views.web.format import as_entered, trimmed
from views.web.guards import api_key, cookie_user, settings, to_login
from views.web.htmx import render, wants_fragment
from views.web.unknown_routes import UnknownRoute

bp = Blueprint("models", __name__)

PAGE_SIZE = 50
MAX_TEXT = 200
MAX_PRICE = 100_000
CONTEXTS = {"32k": 32_000, "128k": 128_000, "200k": 200_000, "1m": 1_000_000}
"""Choices of the fewest tokens of context. Vendors round, so 1m is no power of two."""
LISTED_BUCKETS = ("input", "cache_read", "output")
PLAIN_NAME = re.compile(r"[\w./:@-]+", re.ASCII)
"""A model's name that needs no quoting in any of the languages of the examples."""


@dataclass(frozen=True)
class ProviderFacts:
    """A provider for the page: whether the operator has set its key, the setting, and how many models it serves here."""

    provider: Provider
    served: int

    @property
    def setting(self) -> str:
        """The setting with its API key."""
        return self.provider.key_setting


@bp.app_template_global()
def models_are_public() -> bool:
    """Whether the operator shows the page of models to everybody."""
    return settings().stoa_public_models


@bp.get("/models")
def models() -> ResponseReturnValue:
    """List the models. Query: `search`, `provider`, `can` (an ability), `context` (the fewest tokens), `price` (the most dollars per
    million output tokens), `sort`, `after` (the model before the next page). Requires sign-in unless STOA_PUBLIC_MODELS. Bad values: 422 with the input kept. A client with
    an API key that left out `/v1` gets the address of the JSON list."""
    if (refusal := closed_to_visitors()) is not None:
        return refusal
    router = gateway(current_app).routes
    form = ModelForm.of(request.args, router)
    everything = served_models(router, settings().stoa_margin)
    found = [] if form.errors else find_models(everything, form.filter)
    start = _position(found, request.args.get("after", ""))
    rows = found[start : start + PAGE_SIZE]
    more = start + PAGE_SIZE < len(found)
    partial = "gateway/_more_models.html" if start else "gateway/_models.html"
    response = render(
        "gateway/models.html",
        partial=partial,
        status=422 if form.errors else 200,
        form=form,
        rows=rows,
        found=len(found),
        next_href=form.href(after=rows[-1].id) if more else None,
        providers=_providers(router, everything),
        keyless=not any(each.ready for each in router.upstreams),
        listed_buckets=LISTED_BUCKETS,
        buckets=BUCKETS,
        abilities=[(each, text.capitalize() if text.islower() else text) for each, text in ABILITIES.items()]
        + [(each, model_names.KINDS[each].capitalize()) for each in _kinds(everything)],
        unit_title=unit_title,
        page_words=PAGE_WORDS,
        margin=settings().stoa_margin,
    )
    if wants_fragment() and not start:
        response.headers["HX-Push-Url"] = form.href()
    return response


def closed_to_visitors() -> ResponseReturnValue | None:
    """The way to sign-in, unless models are public. Raises UnknownRoute for a client with an API key that left out `/v1`."""
    if cookie_user() is None:
        if api_key() is not None:
            raise UnknownRoute
        if not models_are_public():
            return to_login()
    return None


def _kinds(everything: Sequence[ServedModel]) -> list[str]:
    """Kinds of served models other than chat models."""
    return sorted({each.route.kind for each in everything if not each.chats})


def _position(found: Sequence[ServedModel], after: str) -> int:
    """Where the page after this model begins; an unknown model begins the list."""
    return next((at + 1 for at, each in enumerate(found) if after and each.id == after), 0)


def _providers(router: Router, everything: Sequence[ServedModel]) -> list[ProviderFacts]:
    served = Counter(each.route.provider.name for each in everything)
    facts = [ProviderFacts(each, served[each.name]) for each in (router.demo, *router.upstreams)]
    return sorted(facts, key=lambda each: not each.served)


@bp.app_template_filter("charged_credits")
def charged_credits(dollars: Decimal) -> str:
    """Dollars as credits with up to four decimals: `316.5`, `0.0791`."""
    amount = dollars * 100
    return trimmed(amount, 2 if amount >= 1 else 4)


@dataclass(frozen=True)
class ModelForm:
    """The filter form: values as entered, the resulting filter, and errors by field."""

    values: Mapping[str, str]
    filter: ModelFilter
    errors: Mapping[str, str]
    choices: Sequence[tuple[str, str]]

    @classmethod
    def of(cls, args: Mapping[str, str], router: Router) -> "ModelForm":
        """Parse query parameters. Empty fields count as missing."""
        names = ("search", "provider", "can", "context", "price", "sort")
        values = {name: args.get(name, "").replace("\x00", "").strip() for name in names}
        errors: dict[str, str] = {}
        if len(values["search"]) > MAX_TEXT:
            errors["search"] = f"Enter at most {MAX_TEXT} characters"
        if values["provider"] and values["provider"] not in router.providers:
            errors["provider"] = "Choose a provider from the list"
        if values["sort"] and values["sort"] not in SORTS:
            errors["sort"] = "Choose an order from the list"
        if values["can"] and values["can"] not in (*ABILITIES, *model_names.KINDS):
            errors["can"] = "Choose an ability from the list"
        if values["context"] and values["context"] not in CONTEXTS:
            errors["context"] = "Choose a size from the list"
        price = _price(values["price"], errors)
        filter = ModelFilter(
            text=values["search"],
            provider=values["provider"],
            max_output_price=price,
            sort=values["sort"] or "name",
            ability=values["can"],
            context=CONTEXTS.get(values["context"], 0),
        )
        choices = [(each.name, each.title) for each in router.providers.values() if each.ready]
        return cls(values, filter, errors, choices)

    def href(self, **changes: str) -> str:
        """The URL of the list with some fields changed. Empty fields are omitted."""
        values: dict[str, Any] = {**self.values, **changes}
        return url_for("models.models", **{key: value for key, value in values.items() if value})

    def sort_href(self, sort: str) -> str:
        """The URL of the list in another order."""
        return self.href(sort="" if sort == "name" else sort)


def _price(text: str, errors: dict[str, str]) -> Decimal | None:
    if not text:
        return None
    plain = text.removeprefix("$").replace(",", ".", 1)
    digits = plain.replace(".", "", 1)
    if len(plain) > 12 or not (digits.isascii() and digits.isdigit()) or Decimal(plain) > MAX_PRICE:
        errors["price"] = f"Enter dollars from 0 to {as_entered(MAX_PRICE)}, such as 2.50"
        return None
    return Decimal(plain)


# -- guide to clients ------------------------------------------------------------------------------------------


@bp.get("/docs/clients")
def clients() -> ResponseReturnValue:
    """Show the guide. `model`: one of the listed models, by default the last that the user called. `key`: the id of one of the
    user's keys, whose name and ends are shown, never the secret. Raises NotFound for other models and keys."""
    user, key_id = cookie_user(), request.args.get("key", "")
    if user is None and key_id:
        return to_login()
    rows = [each for each in credentials.keys(user) if each.expires > now()] if user else []
    key = _chosen_key(rows, key_id) if key_id else None
    names = _model_names() if user or models_are_public() else [MODEL]
    model = request.args.get("model") or suggested_model(names, user.id if user else None)
    if model not in names:
        raise NotFound("This server does not list this model.")
    return render(
        "docs/clients.html",
        sections=guide(site()["url"], model, key.token_hint or KEY if key else KEY),
        model=model,
        models=[(name, name) for name in names],
        key=key,
        keys=[(each.session_token, _label(each)) for each in rows],
        payers={org.id: org.name for org, _ in memberships(user.id)} if user else {},
    )


def _chosen_key(rows: list[Session], identifier: str) -> Session:
    key = next((each for each in rows if each.session_token == identifier), None)
    if key is None:
        raise NotFound("This key does not exist, or has expired.")
    return key


def _label(key: Session) -> str:
    return f"{key.name} ({key.token_hint})" if key.name else key.token_hint or "Unnamed key"


def _model_names() -> list[str]:
    """The listed models, the demo first."""
    names = (each.name for each in gateway(current_app).routes.models())
    return [name for name in names if PLAIN_NAME.fullmatch(name)]
