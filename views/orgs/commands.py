"""`flask orgs`: what operators do for organisations."""

import click
from flask import Flask

from models.core.db import db, now
from models.core.errors import DomainError
from models.orgs import by_slug
from models.orgs.domains import add_domain, clean_domain, domains, prove
from views.server import CommandGroup

commands = CommandGroup("orgs", help="Organisations: vouch for their domains.")


def init_app(app: Flask) -> None:
    """Register the commands."""
    app.cli.add_command(commands)


@commands.command("prove-domain")
@click.argument("slug")
@click.argument("domain")
def prove_domain(slug: str, domain: str) -> None:
    """Prove DOMAIN for the organisation SLUG without DNS. Its identity provider can then sign in everybody with an address of
    the domain: check first that it is theirs."""
    org = by_slug(slug)
    if org is None:
        raise click.ClickException(f"There is no organisation {slug}.")
    try:
        name = clean_domain(domain)
        row = next((each for each in domains(org.id) if each.domain == name), None)
        prove(row or add_domain(org.id, name), "operator", now())
    except DomainError as error:
        raise click.ClickException(error.message) from None
    db.session.commit()
    click.echo(f"{name} is proven for {org.name}.")
