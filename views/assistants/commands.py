"""`flask assistants`: operator commands for assistants."""

from pathlib import Path
from typing import Any

import click
import orjson
from flask import Flask

from models.accounts.signing_in import by_email, clean_email
from models.accounts.users import User
from models.assistants.assistant_import import import_assistants
from models.core.audit_log import record
from models.core.db import db
from models.core.errors import DomainError
from models.ledger import Account
from models.orgs import by_slug
from views.ledger.commands import operator
from views.server import CommandGroup
from views.web.guards import settings

commands = CommandGroup("assistants", help="Assistants: import them from other systems.")


def init_app(app: Flask) -> None:
    """Register the commands."""
    app.cli.add_command(commands)


@commands.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--user", "email", required=True, metavar="EMAIL", help="Who owns them, or makes them in --org."
)
@click.option("--org", "slug", metavar="SLUG", help="The organisation that owns them; by default the user.")
def import_command(file: Path, email: str, slug: str | None) -> None:
    """Import assistants and prompts that were exported from OpenAI: JSON, or a JSON object a line.

    Prints the outcome of each, and what did not travel. Safe to repeat: what was imported is left alone. Exit 1 if any was refused.
    """
    try:
        user = _user(email)
        account = Account(user_id=user.id) if slug is None else Account(org_id=_org_id(slug))
        results = import_assistants(user.id, account, _read(file), settings())
    except DomainError as error:
        raise click.ClickException(error.message) from None
    for each in results:
        if each.outcome == "imported":
            record("assistant.imported", each.id or "", actor=operator(), after={"from": each.source})
    db.session.commit()
    for each in results:
        click.echo(_plain(f"{each.outcome:<8}  {each.source}{f' -> {each.id}' if each.id else ''}"))
        for note in each.notes:
            click.echo(_plain(f"          {note}"))
    if any(each.outcome == "refused" for each in results):
        raise SystemExit(1)


def _user(email: str) -> User:
    user = by_email(clean_email(email))
    if user is None:
        raise click.ClickException(f"There is no user {email}.")
    return user


def _org_id(slug: str) -> str:
    org = by_slug(slug)
    if org is None:
        raise click.ClickException(f"There is no organisation {slug}.")
    return org.id


def _read(file: Path) -> Any:
    raw = file.read_bytes()
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        problem = str(error)
    try:
        return [orjson.loads(line) for line in raw.splitlines() if line.strip()]
    except orjson.JSONDecodeError:
        raise click.ClickException(f"{file.name} is not JSON: {problem}.") from None


def _plain(text: str) -> str:
    """Replace control characters: untrusted text could control the terminal."""
    return "".join(each if each.isprintable() else "\ufffd" for each in text)
