"""`flask accounts …`: make users and tokens, print sign-in links, ban. Standard output carries only the answer."""

import click
from flask import Flask

from models.accounts import credentials, links, signing_in
from models.accounts.credentials import PAT_DAYS
from models.accounts.users import User
from models.admin import record
from models.db import db, now
from models.errors import DomainError
from models.settings import SettingsError, keep_setting
from views.cli import Commands
from views.format import iso
from views.guards import settings

cli = Commands("accounts", help="Users, access tokens, sign-in links.")


def init_app(app: Flask) -> None:
    """Register the commands."""
    app.cli.add_command(cli)


@cli.command()
@click.argument("email")
@click.option("--name", help="The name to show.")
@click.option("--admin", is_flag=True, help="Also add the address to STOA_ADMINS in .env.")
def create(email: str, name: str | None, admin: bool) -> None:
    """Make a user and print the id. You vouch for the address: it counts as verified."""
    address = _clean(email)
    try:
        user = signing_in.create(
            db.session, address, now(), free_credits=settings().stoa_free_credits, name=name
        )
    except DomainError as error:
        raise click.ClickException(error.message) from None
    _record("user.created", user, after={"by": "command"})
    db.session.commit()
    click.echo(user.id)
    if admin:
        _make_admin(address)


@cli.command()
@click.argument("email")
@click.option(
    "--days", type=click.IntRange(1, 365), default=PAT_DAYS, show_default=True, help="When it ends."
)
@click.option("--name", default="flask accounts token", show_default=True, help="What the list of keys says.")
def token(email: str, days: int, name: str) -> None:
    """Make a personal access token and print it. It is kept nowhere and shown this once."""
    user = _user(email)
    made, row = credentials.create_key(db.session, user, by=None, days=days, name=name[:100], now=now())
    _record("token.created", user, after={"id": row.session_token[:12], "expires": iso(row.expires)})
    db.session.commit()
    click.echo(made)


@cli.command()
@click.argument("email")
def link(email: str) -> None:
    """Print a sign-in link: one use, fifteen minutes. An address without an account gets one by using it."""
    address = _clean(email)
    path = links.issue(db.session, address, now=now())
    db.session.commit()
    click.echo(settings().base_url + path)


@cli.command()
@click.argument("email")
def ban(email: str) -> None:
    """Refuse the user's model calls."""
    _ban(email, True)


@cli.command()
@click.argument("email")
def unban(email: str) -> None:
    """Allow the user's model calls again."""
    _ban(email, False)


def _ban(email: str, banned: bool) -> None:
    user = _user(email)
    word = "banned" if banned else "not banned"
    if not signing_in.ban(db.session, user, banned):
        click.echo(f"{user.email} was {word} already.")
        return
    _record("user.banned" if banned else "user.unbanned", user)
    db.session.commit()
    click.echo(f"{user.email} is {word} now.")


def _make_admin(address: str) -> None:
    """Operators are configuration, not data: whoever can write the database must not become one by it."""
    admins = settings().stoa_admins
    if address in admins:
        return
    wanted = ",".join(sorted(admins | {address}))
    try:
        path = keep_setting("STOA_ADMINS", wanted)
    except (SettingsError, OSError) as error:
        click.echo(f"{error} Set STOA_ADMINS={wanted} there and restart.", err=True)
    else:
        click.echo(f"STOA_ADMINS={wanted} is in {path} now. Restart a running server.", err=True)


def _user(email: str) -> User:
    address = _clean(email)
    user = signing_in.by_email(db.session, address)
    if user is None:
        raise click.ClickException(
            f"{address} has no account. Make one with: flask accounts create {address}"
        )
    return user


def _clean(email: str) -> str:
    try:
        return signing_in.clean_email(email)
    except DomainError as error:
        raise click.ClickException(f"{email!r} is no e-mail address. {error.message}") from None


def _record(action: str, user: User, *, after: object = None) -> None:
    record(db.session, action, user.id, actor="command line", after=after)
