"""`flask accounts …`: make users and tokens, print sign-in links, ban. Standard output carries only the answer."""

import click
from flask import Flask

from models.accounts import bans, credentials, magic_links, signing_in
from models.accounts.bans import AccountSuspended
from models.accounts.credentials import PAT_DAYS
from models.accounts.users import User
from models.admin import record
from models.core.db import db, now
from models.core.errors import DomainError
from models.core.settings import SettingsError, save_setting
from models.orgs import by_slug, membership
from views.ledger.commands import operator
from views.server import CommandGroup
from views.web.format import iso
from views.web.guards import settings

cli = CommandGroup("accounts", help="Users, access tokens, sign-in links.")


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
    user = signing_in.create(address, now(), free_credits=settings().stoa_free_credits, name=name)
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
@click.option("--org", metavar="SLUG", help="Let it act for this organisation, which pays for its calls.")
def token(email: str, days: int, name: str, org: str | None) -> None:
    """Make a personal access token and print it. It is kept nowhere and shown this once."""
    user = _user(email)
    payer = by_slug(org) if org else None
    if org and (payer is None or membership(user.id, payer.id) is None):
        raise click.ClickException(f"{user.email} is no member of an organisation {org}.")
    try:
        made, row = credentials.create_key(
            user,
            by=None,
            days=days,
            name=name[:100],
            now=now(),
            org_id=payer.id if payer else None,
        )
    except AccountSuspended:
        raise click.ClickException(_is_banned(user)) from None
    _record("token.created", user, after={"id": row.session_token[:12], "expires": iso(row.expires)})
    db.session.commit()
    click.echo(made)


@cli.command()
@click.argument("email")
def link(email: str) -> None:
    """Print a sign-in link: one use, fifteen minutes. An address without an account gets one by using it."""
    address = _clean(email)
    user = signing_in.by_email(address)
    if user is not None and user.banned:
        raise click.ClickException(_is_banned(user))
    path = magic_links.issue(address, now=now())
    db.session.commit()
    click.echo(settings().base_url + path)


@cli.command()
@click.argument("email")
@click.option("--reason", help="What the banned person is told.")
def ban(email: str, reason: str | None) -> None:
    """Suspend the account: nobody signs in to it, and its browsers, command lines and keys are refused at once.

    Again with another --reason changes what is told. Calls in flight end and are billed. What it published stays in the
    store: see `flask store takedown`.
    """
    user = _user(email)
    before = _ban_of(user)
    if not bans.ban(user, reason, now()):
        click.echo(f"{user.email} was banned already.")
        return
    counts = bans.credentials_of(user, now())
    record(
        "user.banned",
        user.id,
        actor=operator(),
        before=before,
        after=_ban_of(user) | {"refused": counts},
    )
    db.session.commit()
    if before["banned"]:
        click.echo(f"{user.email} was banned already; the reason is changed.")
        return
    click.echo(
        f"{user.email} is banned now. Refused from now on: {counts['web']} browsers, {counts['cli']} command lines,"
        f" {counts['pat']} access tokens."
    )


@cli.command()
@click.argument("email")
def unban(email: str) -> None:
    """Lift the ban. Access tokens and command lines work again; browsers must sign in again."""
    user = _user(email)
    before = _ban_of(user)
    if not bans.unban(user):
        click.echo(f"{user.email} was not banned already.")
        return
    record("user.unbanned", user.id, actor=operator(), before=before, after=_ban_of(user))
    db.session.commit()
    click.echo(f"{user.email} is not banned now. Browsers must sign in again.")


def _is_banned(user: User) -> str:
    return f"{user.email} is banned. Lift that first: flask accounts unban {user.email}"


def _ban_of(user: User) -> dict[str, object]:
    return {"banned": user.banned, "reason": user.banned_reason}


def _make_admin(address: str) -> None:
    """Operators are configuration, not data: whoever can write the database must not become one by it."""
    admins = settings().stoa_admins
    if address in admins:
        return
    wanted = ",".join(sorted(admins | {address}))
    try:
        path = save_setting("STOA_ADMINS", wanted)
    except (SettingsError, OSError) as error:
        click.echo(f"{error} Set STOA_ADMINS={wanted} there and restart.", err=True)
    else:
        click.echo(f"STOA_ADMINS={wanted} is in {path} now. Restart a running server.", err=True)


def _user(email: str) -> User:
    address = _clean(email)
    user = signing_in.by_email(address)
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
    record(action, user.id, actor="command line", after=after)
