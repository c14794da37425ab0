"""Pages outside the rooms: the landing page, permanent redirects (contract section 2.15), robots.txt."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC
from decimal import Decimal

from flask import Blueprint, Response, current_app, redirect, request, url_for
from flask.typing import ResponseReturnValue

from models import demo
from models.core.db import now
from models.gateway.chat_format import Usage
from models.gateway.pricing import flat
from models.gateway.route import held_credits
from models.ledger.credits import credits_of
from models.store.catalogue import store_summary
from models.store.catalogue.store_summary import StoreSummary
from models.usage.period import preset
from models.usage.usage_report import spending
from views.web.charts import colonnade
from views.web.guards import settings
from views.web.htmx import render

bp = Blueprint("pages", __name__)

CLIENTS = {"curl": "curl", "python": "OpenAI Python", "node": "OpenAI Node.js", "codebuff": "Codebuff SDK"}
DAYS = 30
DAYS_NARROW = 13


@dataclass(frozen=True)
class PricingExample:
    """An example call to `stoa/demo`, priced by the billing code with this server's margin."""

    input_tokens: int
    output_tokens: int
    max_tokens: int
    cost: Decimal
    before: int
    held: int
    charged: int


@bp.get("/")
def landing() -> Response:
    """The landing page."""
    today = now().astimezone(UTC).date()
    return render_landing(_demo_daily_spend(), store_summary.summarize(settings().stoa_editors_choice, today))


def render_landing(days: Sequence[int] | None, store: StoreSummary | None) -> Response:
    """The landing page. `days`: daily spend of the demo account over the last 30 days, or None. `store`: None hides its section."""
    client = request.args.get("client", "curl")
    if client not in CLIENTS:
        client = "curl"
    values = list(days or [0] * DAYS)
    return render(
        "landing.html",
        partial="_clients.html",
        clients=CLIENTS,
        client=client,
        days=days,
        store=store,
        wide=colonnade(values, width=1200, height=280),
        narrow=colonnade(values[-DAYS_NARROW:], width=360, height=200),
        example=_example(),
        margin=settings().stoa_margin,
        free=settings().stoa_free_credits,
    )


def _demo_daily_spend() -> list[int] | None:
    today = now()
    spent = spending(demo.USER_ID, preset("30d", today), "model", today)
    return [column.credits for column in spent.columns] if spent.total.credits else None


def _example() -> PricingExample:
    prompt, output, max_tokens = 1_200, 800, 2_000
    price = flat(3, 15)
    cost = price.cost(Usage(uncached_input=prompt, output=output))
    margin = settings().stoa_margin
    return PricingExample(
        input_tokens=prompt,
        output_tokens=output,
        max_tokens=max_tokens,
        cost=cost,
        before=settings().stoa_free_credits or 500,
        held=held_credits(price.max_cost(prompt, max_tokens), margin),
        charged=credits_of(cost, margin)[1],
    )


@bp.get("/usage")
def usage() -> ResponseReturnValue:
    """Permanent redirect (308); to the billing page after a cancelled payment (contract 2.11)."""
    if request.args.get("purchase_canceled"):
        return redirect(url_for("billing.cancelled"), 303)
    return redirect(url_for("profile.profile", tab="usage"), 308)


@bp.get("/api-keys")
def api_keys() -> ResponseReturnValue:
    """Permanent redirect (308)."""
    return redirect(url_for("profile.profile", tab="api-keys"), 308)


@bp.get("/docs")
def docs() -> ResponseReturnValue:
    """Temporary redirect (307) to the API reference."""
    return redirect(url_for("docs.page"), 307)


@bp.get("/favicon.ico")
def favicon() -> Response:
    """The icon, which browsers request on their own."""
    return current_app.send_static_file("img/favicon.svg")


@bp.get("/robots.txt")
def robots() -> Response:
    """Allow indexing of public pages; exclude signed-in pages and the API."""
    lines = [
        "User-agent: *",
        "Disallow: /api/",
        "Disallow: /v1/",
        *(
            f"Disallow: {url_for(door)}"
            for door in ("profile.profile", "runs.runs", "accounts.login", "publishers.new")
        ),
        f"Disallow: {url_for('store.browse')}?",
        f"Sitemap: {settings().base_url}{url_for('feeds.sitemap')}",
        "",
    ]
    return Response("\n".join(lines), mimetype="text/plain")
