"""`flask gateway`: models, their providers and prices."""

from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import click
from flask import Flask, current_app

from models.core.audit_log import record
from models.core.db import db, now
from models.core.errors import DomainError
from models.gateway import price_imports
from models.gateway.aliases import describe
from models.gateway.gateway_call import refused_names
from models.gateway.price_comparison import BucketChange, compare, dry_run
from models.gateway.price_imports import PriceImport
from models.gateway.pricing import ModelPrice
from models.gateway.route import Route
from views.gateway.api.model_calls import gateway
from views.ledger.commands import operator
from views.server import CommandGroup

commands = CommandGroup("gateway", help="Models: their providers and prices.")


def init_app(app: Flask) -> None:
    """Register the commands."""
    app.cli.add_command(commands)


@commands.command("models")
@click.argument("name", required=False)
@click.option(
    "--days", default=7, show_default=True, type=click.IntRange(1, 3650), help="Days of refusals to list."
)
def models_command(name: str | None, days: int) -> None:
    """List models with their route and price in dollars per million tokens (input / cached / cache write / output),
    then models refused because they have no price. NAME: only models whose name contains it, or exactly this model.
    """
    routes = gateway(current_app).routes
    listed = (route.name for route in routes.all_models())
    models = {model for model in listed if not name or name.strip().lower() in model.lower()}
    if name and not models:
        models = {name}
    width = max((len(model) for model in models), default=0)
    for model in sorted(models):
        try:
            description = _route(routes.find_any(model))
        except DomainError as error:
            description = error.message
        click.echo(f"{model:<{width}}  {description}")
    if not any(provider.ready for provider in routes.upstreams):
        keys = [provider.key_setting for provider in (routes.openrouter, *routes.direct)]
        click.echo(f"No provider key is set: set one of {', '.join(keys)}.")
    elif routes.openrouter.ready:
        click.echo("All other models go to OpenRouter, which reports the cost of each call.")
    refused = refused_names(now() - timedelta(days=days))
    if refused:
        click.echo(f"\nRefused without a price in the last {days} days (set prices in STOA_PRICES_FILE):")
    for each in refused:
        click.echo(f"{each.model}  {each.times} times, last {each.last:%Y-%m-%d %H:%M} UTC")


def _route(route: Route) -> str:
    if route.alias is not None:
        return f"alias of {describe(route.alias)}"
    where = (
        route.provider.name if route.model == route.requested else f"{route.provider.name} as {route.model}"
    )
    return f"{where:<42}  {_price(route.price)}"


def _price(price: ModelPrice | None) -> str:
    if price is None:
        return "missing; the provider reports the cost of each call"
    if price.is_free:
        return f"zero  ({price.source})"
    tier = price.tiers[0]
    prices = " / ".join(
        _dollars(each) for each in (tier.input, tier.cache_read, tier.cache_write, tier.output)
    )
    more = "".join(
        f", over {each.above} input tokens {_dollars(each.input)} / {_dollars(each.output)}"
        for each in price.tiers[1:]
    )
    return f"set   {prices}{more}  ({price.source})"


def _dollars(amount: Decimal) -> str:
    return f"{amount.normalize():f}"


# -- imports of prices ---------------------------------------------------------------------------------------


@commands.group("prices")
def prices() -> None:
    """Imports of prices: proposed, compared, tried, approved."""


@prices.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def import_command(file: Path) -> None:
    """Propose the prices in FILE: the format of STOA_PRICES_FILE (TOML or JSON), OpenRouter's list of models
    (https://openrouter.ai/api/v1/models, saved), which is for models that OpenRouter serves here, or LiteLLM's map of prices.

    Nothing changes before the proposal is approved."""
    entries, source = price_imports.read_prices(file.read_bytes(), file.name)
    proposal = price_imports.propose(entries, source, operator())
    record(
        "prices.proposed",
        str(proposal.id),
        actor=operator(),
        after={"source": source, "models": len(entries)},
    )
    db.session.commit()
    click.echo(f"Import {proposal.id}: {len(entries):,} models of {file.name}, proposed.")
    _echo_comparison(proposal)
    click.echo(f"\nApply it with: flask gateway prices approve {proposal.id}")


@prices.command("diff")
@click.argument("id", type=int, required=False)
def diff_command(id: int | None) -> None:
    """Compare import ID (default: the newest proposal) with the prices in force, and try it on the calls of the last 30 days."""
    _echo_comparison(price_imports.find_import(id) if id else price_imports.latest_proposal())


@prices.command("approve")
@click.argument("id", type=int)
def approve_command(id: int) -> None:
    """Bring import ID into force, whole and on all workers at the same minute."""
    proposal = price_imports.approve(id, operator(), now())
    record(
        "prices.approved",
        str(id),
        actor=operator(),
        after={"effective_at": f"{proposal.effective_at:%Y-%m-%dT%H:%MZ}"},
    )
    db.session.commit()
    click.echo(f"Import {id} is in force on all workers from {proposal.effective_at:%Y-%m-%d %H:%M} UTC on.")


@prices.command("reject")
@click.argument("id", type=int)
def reject_command(id: int) -> None:
    """Close import ID without effect."""
    price_imports.reject(id, operator(), now())
    record("prices.rejected", str(id), actor=operator())
    db.session.commit()
    click.echo(f"Import {id} is rejected.")


@prices.command("list")
def list_command() -> None:
    """List the newest imports."""
    for each in price_imports.price_imports():
        decided = f", by {each.decided_by}" if each.decided_by else ""
        click.echo(
            f"{each.id:>5}  {each.created_at:%Y-%m-%d %H:%M}  {each.state}{decided}  {len(each.prices):,} models  {each.source}"
        )


def _echo_comparison(proposal: PriceImport) -> None:
    gate = gateway(current_app)
    found = compare(gate.routes, proposal)
    for change in found.changes:
        click.echo(f"{'!' if change.large else ' '} {change.route.requested}")
        for bucket in change.buckets:
            click.echo(f"    {_bucket(bucket)}")
    click.echo(
        f"{len(found.changes):,} {'model changes' if len(found.changes) == 1 else 'models change'}, {found.unchanged:,} do not, {len(found.overridden):,} are set in "
        f"STOA_PRICES_FILE, {found.elsewhere:,} are not served here."
    )
    if found.unpriced:
        click.echo(f"No longer served, without a price: {', '.join(found.unpriced)}")
    tried = dry_run(gate.routes, found.changes, gate.margin, now())
    click.echo(f"\nCalls since {tried.since:%Y-%m-%d}, in credits:")
    for each in tried.models:
        note = "  (its provider reports the cost)" if each.reported else ""
        click.echo(f"  {each.model}  {each.calls:,} calls  {each.before:,.2f} -> {each.after:,.2f}{note}")
    click.echo(f"  all  {tried.calls:,} calls  {tried.before:,.2f} -> {tried.after:,.2f}")


def _bucket(change: BucketChange) -> str:
    old = "none" if change.old is None else _dollars(change.old)
    share = "" if change.share is None else f"  {change.share * 100:+.1f}%"
    only = f" ({change.only})" if change.only else ""
    return f"{change.bucket}{only}: {old} -> {_dollars(change.new)}{share}"
