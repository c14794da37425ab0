"""`/models/<id>`: one model: prices, what it can do, how it answered here, and code that calls it."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from flask import current_app, request
from flask.typing import ResponseReturnValue

from models.core.db import now
from models.core.errors import NotFound
from models.gateway.client_guide import code_examples
from models.gateway.model_catalogue import (
    BUCKETS,
    MAIN_BUCKETS,
    PAGE_WORDS,
    ServedModel,
    aliases,
    find_model,
    served_models,
    unit_title,
)
from models.gateway.model_figures import DAYS, account_figures, served_figures
from views.gateway.api.model_calls import gateway
from views.gateway.pages.model_list import PLAIN_NAME, bp, closed_to_visitors
from views.web.assets import site
from views.web.guards import cookie_user, settings
from views.web.htmx import render


@dataclass(frozen=True)
class PriceRow:
    """A bucket with its charged dollars: per million tokens in each tier, or per unit."""

    name: str
    dollars: Sequence[Decimal]
    unit: bool = False


@bp.get("/models/<path:name>")
def model(name: str) -> ResponseReturnValue:
    """Show a listed model. Query: `days` (7 or 30) of the figures. Requires sign-in unless STOA_PUBLIC_MODELS; with it, the account's own
    figures stand beside the server's. Raises NotFound."""
    if (refusal := closed_to_visitors()) is not None:
        return refusal
    router = gateway(current_app).routes
    found = find_model(served_models(router, settings().stoa_margin), name)
    days = request.args.get("days", type=int) or DAYS[0]
    if found is None or days not in DAYS:
        raise NotFound("This server does not list this model.")
    user, moment = cookie_user(), now()
    other_names = aliases(router, found)
    figures = served_figures(router, found.route, days, moment)
    names = {found.id, *other_names, *figures.names}
    return render(
        "gateway/model.html",
        partial="gateway/_model_figures.html",
        model=found,
        prices=_prices(found),
        tiers=[above for above, _ in found.tiers],
        aliases=other_names,
        examples=code_examples(site()["url"], found.id)
        if found.chats and PLAIN_NAME.fullmatch(found.id)
        else [],
        days=days,
        periods=DAYS,
        served=figures,
        own=account_figures(user.id, names, days, moment) if user else None,
        margin=settings().stoa_margin,
        page_words=PAGE_WORDS,
        unit_title=unit_title,
    )


def _prices(model: ServedModel) -> list[PriceRow]:
    """What is charged for each bucket, and for each unit."""
    rows = [
        PriceRow(BUCKETS[name], [model.rates[name], *(rates[name] for _, rates in model.tiers)])
        for name in MAIN_BUCKETS
        if model.price and model.price.by_tokens
    ]
    rows += [PriceRow(BUCKETS[name], [dollars]) for name, dollars in model.other_rates.items()]
    rows += [
        PriceRow(f"{BUCKETS[name]}, {way.replace(':', ' ').replace('_', ' ')}", [rates[name]])
        for way, rates in model.ways.items()
        for name in ("input", "output")
    ]
    return rows + [PriceRow(unit_title(name), [dollars], unit=True) for name, dollars in model.units.items()]
