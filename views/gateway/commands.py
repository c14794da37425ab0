"""`flask gateway`: models, their providers and prices."""

from datetime import timedelta
from decimal import Decimal

import click
from flask import Flask, current_app

from models.core.db import now
from models.core.errors import DomainError
from models.gateway.gateway_call import refused_names
from models.gateway.pricing import ModelPrice
from models.gateway.routing import Route
from views.gateway.api.model_calls import gateway
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
    listed = (route.requested for route in routes.all_models())
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
