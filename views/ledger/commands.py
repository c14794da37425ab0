"""`flask billing`: what an operator does with credits."""

import getpass
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import click
from flask import Flask, current_app

from models import admin, ledger
from models.accounts.signing_in import by_email, clean_email
from models.billing.purchase_proof import prove_purchases
from models.core.db import db, now
from models.core.errors import Conflict, DomainError, NotFound
from models.gateway.gateway_call import flagged_calls
from models.gateway.relay import Gateway
from models.gateway.spool import TOKENS, Spool, UnsettledCall
from models.ledger import GRANT_TYPES, Account
from models.orgs import by_slug
from views.server import CommandGroup
from views.web.guards import settings

commands = CommandGroup("billing", help="Credits: grants, balances, and the proof of the books.")

PERSONAL_TYPES = [kind for kind in GRANT_TYPES if kind != "organization"]


def init_app(app: Flask) -> None:
    """Register the commands."""
    app.cli.add_command(commands)


class DateTimeParam(click.ParamType[datetime]):
    """A date or a moment in ISO 8601; UTC when it names no zone."""

    name = "iso"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """The aware moment, or a usage error."""
        try:
            moment = datetime.fromisoformat(value)
            return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is no date: write 2027-01-31 or 2027-01-31T12:00:00Z.", param, ctx)


@commands.command("grant")
@click.argument("name")
@click.argument("credits", type=click.IntRange(1, ledger.MAX_GRANT))
@click.option(
    "--type",
    "kind",
    type=click.Choice(PERSONAL_TYPES),
    default="admin",
    show_default=True,
    help="Of a person's credits.",
)
@click.option("--expires", type=DateTimeParam(), help="When the credits end; never, by default.")
@click.option("--reason", default="Granted by an operator", help="What the account's owner reads.")
def grant_command(name: str, credits: int, kind: str, expires: datetime | None, reason: str) -> None:
    """Give CREDITS to the account of NAME: an e-mail address, or an organisation's slug."""
    account, name = account_of_name(name)
    kind = "organization" if account.org_id else kind
    granted = ledger.grant(
        account,
        credits,
        kind,
        operation_id=f"{kind}-{account.id}-{ledger.compact_id()}",
        description=reason,
        expires_at=expires,
    )
    admin.record(
        "billing.grant",
        account.id,
        actor=operator(),
        after={
            "operation_id": granted.operation_id,
            "credits": credits,
            "type": kind,
            "expires_at": expires.isoformat() if expires else None,
        },
    )
    found = ledger.balance(account)
    db.session.commit()
    cleared = f" {granted.debt_cleared:,} of them cleared debt." if granted.debt_cleared else ""
    click.echo(f"Granted {credits:,} credits to {name}.{cleared} Balance: {found.net_balance:,}.")
    click.echo(granted.operation_id)


@commands.command("revoke")
@click.argument("operation_id")
@click.option("--reason", required=True, help="Why; it is added to the grant's description.")
def revoke_command(operation_id: str, reason: str) -> None:
    """Take back what is left of a grant."""
    credits = ledger.revoke(operation_id, reason)
    admin.record(
        "billing.revoke",
        operation_id,
        actor=operator(),
        before={"credits": credits},
        after={"reason": reason},
    )
    db.session.commit()
    click.echo(f"Revoked {credits:,} credits.")


@commands.command("balance")
@click.argument("name")
def balance_command(name: str) -> None:
    """Show what the account of NAME has, by grant: an e-mail address, or an organisation's slug."""
    account, name = account_of_name(name)
    ledger.ensure_quota(account, settings().stoa_free_credits)
    found, cycle, grants = ledger.balance(account), ledger.cycle(account), ledger.grants_of(account)
    db.session.commit()
    click.echo(f"{name}  {account.id}")
    for name, amount in (
        ("remaining", found.total_remaining),
        ("debt", found.total_debt),
        ("held", found.held),
        ("used this cycle", cycle.used),
    ):
        click.echo(f"{name:<16}{amount:>14,}")
    click.echo(f"{'next reset':<16}  {_date(cycle.ends)}")
    for line in grants:
        until = f"until {_date(line.expires_at)}" if line.expires_at else "no expiry"
        click.echo(
            f"  {line.type:<14}{line.balance:>14,} of {line.principal:,}, {until}  {line.operation_id}"
        )


@commands.command("prove")
def prove_command() -> None:
    """Recompute the books from entries, messages and purchases; exit 1 if any figure differs."""
    proof = ledger.prove()
    checks = [*proof.checks, *prove_purchases()]
    differences = sum(check.count for check in checks)
    for check in checks:
        click.echo(f"{'ok   ' if not check.count else 'DRIFT'}  {check.name}")
        for found in check.differences:
            click.echo(f"         {found.subject}: expected {found.expected}, found {found.found}")
        if check.count > len(check.differences):
            click.echo(f"         and {check.count - len(check.differences):,} more")
    click.echo(
        f"{proof.accounts:,} accounts, {proof.entries:,} entries, {proof.messages:,} messages: "
        + (f"{differences:,} differ." if differences else "all figures agree.")
    )
    if proof.lost_holds:
        click.echo(f"{proof.lost_holds:,} lost calls wait for an operator: flask billing lost.")
    if differences:
        raise SystemExit(1)


@commands.command("sweep")
def sweep_command() -> None:
    """Free the holds of calls that never ended and write off expired grants."""
    holds = grants = credits = 0
    while True:
        swept = ledger.sweep()
        db.session.commit()
        holds, grants, credits = holds + swept.holds, grants + swept.grants, credits + swept.credits
        if not swept.grants:
            break
    click.echo(f"{holds:,} holds lost, {grants:,} grants expired with {credits:,} credits.")


@commands.command("lost")
@click.option("--dismiss", metavar="REQUEST_ID", help="Take one off the list; nothing is charged for it.")
def lost_command(dismiss: str | None) -> None:
    """List calls that were admitted and never settled: their upstream may have been paid."""
    known = {call.request_id for call in _spool().calls()}
    if dismiss in known:
        raise Conflict("What this call used is known: flask billing unsettled.")
    if dismiss:
        lost = ledger.dismiss_lost(dismiss)
        before = {"amount": lost.amount, "model": lost.model, "lost_at": lost.lost_at.isoformat()}
        admin.record("billing.dismiss_lost", dismiss, actor=operator(), before=before)
        db.session.commit()
        click.echo(f"Dismissed {dismiss}.")
        return
    calls = ledger.lost_holds()
    for lost in calls:
        click.echo(
            f"{_date(lost.lost_at)}  {lost.request_id}  {lost.email}  {lost.model}"
            f"  held {lost.amount:,}  run {lost.run_id or '-'}  worker {lost.worker}"
            + ("  known: flask billing unsettled" if lost.request_id in known else "")
        )
    if not calls:
        click.echo("No call was lost.")


@commands.command("flagged")
@click.option("--days", type=click.IntRange(1, 3650), default=30, show_default=True)
def flagged_command(days: int) -> None:
    """List calls whose bill looks odd: they were charged, and somebody should see why."""
    calls = flagged_calls(now() - timedelta(days=days))
    for call in calls:
        listed = (call.price or {}).get("listed")
        click.echo(
            f"{_date(call.finished_at)}  {call.request_id}  {', '.join(call.flags or ())}  {call.provider}"
            f"  {call.model}  ${call.cost.normalize():f}{f', listed ${listed}' if listed else ''}"
            f"  {call.credits:,} credits  {call.user_id}"
        )
    if not calls:
        click.echo(f"No call of the last {days} days is flagged.")


@commands.command("unsettled")
@click.option("--settle", is_flag=True, help="Tell the ledger now, and list what it still refuses.")
@click.option(
    "--dismiss", metavar="REQUEST_ID", help="Forget one that is set aside; nothing is charged for it."
)
def unsettled_command(settle: bool, dismiss: str | None) -> None:
    """List calls whose use is known and which the ledger of this machine has not taken yet, with what they used.

    While one waits, no call is admitted. Those set aside keep out their own account alone.
    """
    spool = _spool()
    if dismiss:
        forgotten = spool.dismiss(dismiss)
        if forgotten is None:
            raise NotFound("No call with this id is set aside.")
        before = {name: value for name, value in _used(forgotten).items() if value is not None}
        admin.record("billing.dismiss_unsettled", dismiss, actor=operator(), before=before)
        db.session.commit()
        click.echo(f"Dismissed {dismiss}.")
        return
    if settle:
        taken = spool.settle_all()
        click.echo("A worker is settling them just now." if taken is None else f"{taken:,} settled.")
    calls = spool.calls()
    for call in calls:
        used = "  ".join(f"{name} {value}" for name, value in _used(call).items() if value is not None)
        state = "damaged" if call.facts is None else "set aside" if call.aside else "waiting"
        click.echo(f"{_date(call.since)}  {call.request_id}  {state}  {used}")
    if not calls:
        click.echo("Every call is settled.")


def _used(call: UnsettledCall) -> dict[str, Any]:
    facts = call.facts or {}
    names = ("user_id", "org_id", "run_id", "provider", "model", "error", *TOKENS)
    return {name: facts.get(name) for name in names} | {"cost": f"${call.cost:.6f}" if facts else None}


def _spool() -> Spool:
    return cast(Gateway, current_app.extensions["gateway"]).spool


def account_of_name(name: str) -> tuple[Account, str]:
    """The account of an e-mail address or an organisation's slug, and its name. Raises NotFound."""
    org = by_slug(name)
    if org is not None:
        return Account(org_id=org.id), org.slug
    user = None
    with suppress(DomainError):
        user = by_email(clean_email(name))
    if user is None:
        raise NotFound(
            f"Nobody has the address {name}." if "@" in name else f"There is no organisation {name}."
        )
    return Account(user_id=user.id), user.email


def operator() -> str:
    """Who types the command, for the audit log."""
    try:
        return f"cli:{getpass.getuser()}"
    except (OSError, KeyError):
        return "cli"


def _date(moment: datetime | None) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC") if moment else "-"
