"""`flask accounts …`: create users and API keys, print sign-in links, ban users. Results go to standard output."""

import click
from flask import Flask

from models.accounts import bans, credentials, magic_links, signing_in
from models.accounts.api_keys import KeyRules
from models.accounts.bans import AccountSuspended
from models.accounts.credentials import PAT_DAYS
from models.accounts.key_format import LIVE, TEST
from models.accounts.scopes import AGENTS_PUBLISH, AGENTS_RUN, INFERENCE, USAGE_READ, normal_scopes
from models.accounts.users import User
from models.core.audit_log import record
from models.core.db import db, now
from models.core.errors import DomainError, Invalid
from models.core.settings import SettingsError, save_setting
from models.orgs import by_slug, membership
from views.ledger.commands import operator
from views.server import CommandGroup
from views.web.format import iso
from views.web.guards import settings

TOKEN_SCOPES = (*INFERENCE, AGENTS_RUN, AGENTS_PUBLISH, USAGE_READ)
"""What a key of the command line may do unless others are chosen: what clients and the SDKs need."""

cli = CommandGroup("accounts", help="Manage users, API keys, sign-in links and bans.")


def init_app(app: Flask) -> None:
    """Register the commands."""
    app.cli.add_command(cli)


@cli.command()
@click.argument("email")
@click.option("--name", help="Display name.")
@click.option("--admin", is_flag=True, help="Also add the address to STOA_ADMINS in .env.")
def create(email: str, name: str | None, admin: bool) -> None:
    """Create a user and print the id. The address counts as verified."""
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
    "--days", type=click.IntRange(1, 365), default=PAT_DAYS, show_default=True, help="Days until it expires."
)
@click.option("--name", default="flask accounts token", show_default=True, help="Name in the list of keys.")
@click.option("--org", metavar="SLUG", help="Act for this organisation, which pays for the calls.")
@click.option(
    "--scope",
    "permissions",
    multiple=True,
    metavar="SCOPE",
    help=f"What the key may do; may be repeated. Without it: {', '.join(TOKEN_SCOPES)}.",
)
@click.option(
    "--test", is_flag=True, help="A test key: the demo models answer its calls, which cost nothing."
)
@click.option(
    "--older-kind", is_flag=True, help="A key as of older versions (cb-pat-...), which may do everything."
)
def token(
    email: str,
    days: int,
    name: str,
    org: str | None,
    permissions: tuple[str, ...],
    test: bool,
    older_kind: bool,
) -> None:
    """Create an API key and print it. It is not stored and is shown only once."""
    if older_kind and (permissions or test):
        raise click.UsageError("A key of the older kind has no scopes and no environment.")
    rules = KeyRules(environment=TEST if test else LIVE, permissions=permissions or TOKEN_SCOPES)
    user = _user(email)
    payer = by_slug(org) if org else None
    if org and (payer is None or membership(user.id, payer.id) is None):
        raise click.ClickException(f"{user.email} is not a member of an organisation {org}.")
    try:
        key, row = credentials.create_key(
            user,
            by=None,
            days=days,
            name=name[:100],
            now=now(),
            org_id=payer.id if payer else None,
            rules=None if older_kind else rules,
        )
    except AccountSuspended:
        raise click.ClickException(_is_banned(user)) from None
    except Invalid as error:
        raise click.BadParameter(error.message, param_hint="--scope") from None
    after = {"id": row.session_token[:12], "expires": iso(row.expires)}
    scope_names = {} if older_kind else {"permissions": normal_scopes(rules.permissions)}
    _record("token.created", user, after=after | scope_names)
    db.session.commit()
    click.echo(key)


@cli.command()
@click.argument("email")
def link(email: str) -> None:
    """Print a sign-in link that works once, within 15 minutes. Using it creates the account if there is none."""
    address = _clean(email)
    user = signing_in.by_email(address)
    if user is not None and user.banned:
        raise click.ClickException(_is_banned(user))
    path = magic_links.issue(address, now=now())
    record("user.sign_in_link", user.id if user else address, actor=operator())
    db.session.commit()
    click.echo(settings().base_url + path)


@cli.command()
@click.argument("email")
@click.option("--reason", help="Reason shown to the banned user.")
def ban(email: str, reason: str | None) -> None:
    """Suspend the account: sign-in is blocked, and its browsers, command lines and API keys are rejected at once.

    Run again with another --reason to change it. Calls in flight finish and are billed. Published agents stay in the
    store; use `flask store takedown` to remove them.
    """
    user = _user(email)
    before = _ban_of(user)
    if not bans.ban(user, reason, now()):
        click.echo(f"{user.email} is already banned.")
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
        click.echo(f"{user.email} was already banned; the reason is updated.")
        return
    click.echo(
        f"{user.email} is now banned. Rejected from now on: {counts['web']} browsers, {counts['cli']} command lines,"
        f" {counts['pat']} API keys."
    )


@cli.command()
@click.argument("email")
def unban(email: str) -> None:
    """Lift the ban. API keys and command lines work again; browsers must sign in again."""
    user = _user(email)
    before = _ban_of(user)
    if not bans.unban(user):
        click.echo(f"{user.email} is not banned.")
        return
    record("user.unbanned", user.id, actor=operator(), before=before, after=_ban_of(user))
    db.session.commit()
    click.echo(f"{user.email} is no longer banned. Browsers must sign in again.")


def _is_banned(user: User) -> str:
    return f"{user.email} is banned. Lift the ban first: flask accounts unban {user.email}"


def _ban_of(user: User) -> dict[str, object]:
    return {"banned": user.banned, "reason": user.banned_reason}


def _make_admin(address: str) -> None:
    """Add the address to STOA_ADMINS in .env. Operators are configuration, not data that a database user could change."""
    admins = settings().stoa_admins
    if address in admins:
        return
    value = ",".join(sorted(admins | {address}))
    try:
        path = save_setting("STOA_ADMINS", value)
    except (SettingsError, OSError) as error:
        click.echo(f"{error} Set STOA_ADMINS={value} there and restart.", err=True)
    else:
        click.echo(f"Added STOA_ADMINS={value} to {path}. Restart a running server.", err=True)


def _user(email: str) -> User:
    address = _clean(email)
    user = signing_in.by_email(address)
    if user is None:
        raise click.ClickException(
            f"{address} has no account. Create one with: flask accounts create {address}"
        )
    return user


def _clean(email: str) -> str:
    try:
        return signing_in.clean_email(email)
    except DomainError as error:
        raise click.ClickException(f"{email!r} is not an e-mail address. {error.message}") from None


def _record(action: str, user: User, *, after: object = None) -> None:
    record(action, user.id, actor="command line", after=after)
