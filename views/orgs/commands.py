"""`flask orgs`: what operators do for organisations."""

import json

import click
from flask import Flask

from models.core.db import db, now
from models.core.errors import DomainError
from models.orgs import Org, by_slug
from models.orgs.domains import add_domain, clean_domain, domains, prove
from models.orgs.features import features, set_feature
from views.ledger.commands import operator
from views.server import CommandGroup

commands = CommandGroup("orgs", help="Organisations: vouch for their domains, set their features.")


def init_app(app: Flask) -> None:
    """Register the commands."""
    app.cli.add_command(commands)


@commands.command("prove-domain")
@click.argument("slug")
@click.argument("domain")
def prove_domain(slug: str, domain: str) -> None:
    """Prove DOMAIN for the organisation SLUG without DNS. Its identity provider can then sign in everybody with an address of
    the domain: check first that it is theirs."""
    org = _org(slug)
    try:
        name = clean_domain(domain)
        row = next((each for each in domains(org.id) if each.domain == name), None)
        prove(row or add_domain(org.id, name), operator(), now())
    except DomainError as error:
        raise click.ClickException(error.message) from None
    db.session.commit()
    click.echo(f"{name} is proven for {org.name}.")


@commands.command("feature")
@click.argument("slug")
@click.argument("name")
@click.option("--on/--off", default=True, help="Enable it (default) or disable it.")
@click.option("--config", metavar="JSON", help="Its configuration, a JSON object; kept if not given.")
def feature(slug: str, name: str, on: bool, config: str | None) -> None:
    """Enable or disable the feature NAME for the organisation SLUG."""
    org = _org(slug)
    try:
        parsed = json.loads(config) if config else None
    except ValueError:
        parsed = config
    if parsed is not None and not isinstance(parsed, dict):
        raise click.ClickException("--config is not a JSON object.")
    try:
        set_feature(org, name, on, parsed, actor=operator())
    except DomainError as error:
        raise click.ClickException(error.message) from None
    db.session.commit()
    click.echo(f"{name} is {'on' if on else 'off'} for {org.name}.")


@commands.command("features")
@click.argument("slug")
def list_features(slug: str) -> None:
    """Print the features of the organisation SLUG."""
    for row in features(_org(slug)):
        config = f" {json.dumps(row.config)}" if row.config else ""
        click.echo(f"{row.feature}: {'on' if row.is_active else 'off'}{config}")


def _org(slug: str) -> Org:
    org = by_slug(slug)
    if org is None:
        raise click.ClickException(f"There is no organisation {slug}.")
    return org
