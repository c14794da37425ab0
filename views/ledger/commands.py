"""`flask billing`: operator commands for credits."""

import getpass
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import click
from flask import Flask, current_app

from models import ledger
from models.accounts.signing_in import by_email, clean_email
from models.billing import record_ledger_proof
from models.core.audit_log import record
from models.core.db import db, now
from models.core.errors import DomainError, Invalid, NotFound
from models.gateway.gateway_call import flagged_calls
from models.gateway.lost_calls import dismiss_lost_call
from models.gateway.relay import Gateway
from models.gateway.spool import TOKENS, Spool, UnsettledCall
from models.ledger import GRANT_TYPES, Account
from models.ledger.heads import heads_csv
from models.ledger.statement_check import check_heads, check_statement, decoded, unknown_heads
from models.orgs import by_slug
from views.server import CommandGroup
from views.web.guards import settings

commands = CommandGroup("billing", help="Credits: grants, balances, and the ledger proof.")
commands.without_database = frozenset({"verify"})

PERSONAL_TYPES = [kind for kind in GRANT_TYPES if kind != "organization"]


def init_app(app: Flask) -> None:
    """Register the commands."""
    app.cli.add_command(commands)


class DateTimeParam(click.ParamType[datetime]):
    """An ISO 8601 date or datetime; UTC unless it has a time zone."""

    name = "iso"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Parse to an aware UTC datetime; fail with a usage error if it is invalid."""
        try:
            moment = datetime.fromisoformat(value)
            return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is not a valid date: use 2027-01-31 or 2027-01-31T12:00:00Z.", param, ctx)


@commands.command("grant")
@click.argument("name")
@click.argument("credits", type=click.IntRange(1, ledger.MAX_GRANT))
@click.option(
    "--type",
    "kind",
    type=click.Choice(PERSONAL_TYPES),
    default="admin",
    show_default=True,
    help="Type of a grant to a person.",
)
@click.option("--expires", type=DateTimeParam(), help="When the credits expire; default: never.")
@click.option("--reason", default="Granted by an operator", help="Description shown to the account owner.")
def grant_command(name: str, credits: int, kind: str, expires: datetime | None, reason: str) -> None:
    """Grant CREDITS to the account NAME: an email address or an organisation's slug."""
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
    record(
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
    balance = ledger.balance(account)
    db.session.commit()
    cleared = f" {granted.debt_cleared:,} of them cleared debt." if granted.debt_cleared else ""
    click.echo(f"Granted {credits:,} credits to {name}.{cleared} Balance: {balance.net_balance:,}.")
    click.echo(granted.operation_id)


@commands.command("revoke")
@click.argument("operation_id")
@click.option("--reason", required=True, help="Reason, appended to the grant's description.")
def revoke_command(operation_id: str, reason: str) -> None:
    """Revoke the remaining credits of a grant."""
    credits = ledger.revoke(operation_id, reason)
    record(
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
    """Show the balance of the account NAME by grant: an email address or an organisation's slug."""
    account, name = account_of_name(name)
    ledger.ensure_quota(account, settings().stoa_free_credits)
    balance, cycle, grants = ledger.balance(account), ledger.cycle(account), ledger.grants_of(account)
    db.session.commit()
    click.echo(f"{name}  {account.id}")
    for name, amount in (
        ("remaining", balance.total_remaining),
        ("debt", balance.total_debt),
        ("held", balance.held),
        ("used this cycle", cycle.used),
    ):
        click.echo(f"{name:<16}{amount:>14,}")
    click.echo(f"{'next reset':<16}  {_date(cycle.ends)}")
    for grant in grants:
        until = f"until {_date(grant.expires_at)}" if grant.expires_at else "no expiry"
        click.echo(
            f"  {grant.type:<14}{grant.balance:>14,} of {grant.principal:,}, {until}  {grant.operation_id}"
        )


@commands.command("prove")
def prove_command() -> None:
    """Verify all ledger totals against entries, messages and purchases, and record the result; exit 1 if any differ."""
    proof, checks = record_ledger_proof()
    for check in checks:
        click.echo(f"{'ok   ' if not check.count else 'DRIFT'}  {check.name}")
        for difference in check.differences:
            click.echo(
                f"         {difference.subject}: expected {difference.expected}, found {difference.found}"
            )
        if check.count > len(check.differences):
            click.echo(f"         and {check.count - len(check.differences):,} more")
    click.echo(
        f"{proof.accounts:,} accounts, {proof.entries:,} entries, {proof.messages:,} messages: "
        + (f"{proof.differences:,} differ." if proof.differences else "all totals match.")
    )
    if proof.lost_calls:
        click.echo(f"{proof.lost_calls:,} lost calls to review: flask billing lost.")
    if proof.differences:
        raise SystemExit(1)


@commands.command("verify")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--heads",
    "heads_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A kept list of recorded heads (CSV); the statement's heads must be among them.",
)
def verify_command(file: Path, heads_file: Path | None) -> None:
    """Check the exported statement FILE without the database; exit 1 if anything in it is wrong."""
    try:
        check = check_statement(decoded(file.read_bytes()))
        recorded, wrong = check_heads(decoded(heads_file.read_bytes())) if heads_file else ({}, [])
    except UnicodeDecodeError:
        raise Invalid("The file is not text in UTF-8.") from None
    for problem in check.problems:
        click.echo(f"line {problem.line}: {problem.text}")
    if check.problem_count > len(check.problems):
        click.echo(f"and {check.problem_count - len(check.problems):,} more")
    unknown = unknown_heads(check, recorded) if heads_file else []
    for problem in (*wrong, *unknown):
        click.echo(f"heads: line {problem.line}: {problem.text}")
    click.echo(
        f"{check.account}: {check.entries:,} entries, {check.first_at or '-'} to {check.last_at or '-'}"
    )
    click.echo(f"balance {check.opening_balance:,} to {check.closing_balance:,}, head {check.closing_hash}")
    for kind, amount in sorted(check.kinds.items()):
        click.echo(f"  {kind:<14}{amount:>14,}")
    for head in check.heads:
        click.echo(f"  entry {head.entry_id} is in the head of {head.date}: {head.hash}")
    if not check.valid or wrong or unknown:
        click.echo("Not valid.")
        raise SystemExit(1)
    click.echo("Valid.")


@commands.command("heads")
@click.option("--record", is_flag=True, help="First record today's head, if there is none yet.")
def heads_command(record: bool) -> None:
    """Print the recorded heads as CSV, oldest first: keep them where nobody who can change the database can."""
    if record:
        ledger.record_head()
        db.session.commit()
    click.echo(heads_csv(), nl=False)


@commands.command("sweep")
def sweep_command() -> None:
    """Mark expired holds as lost and write off expired grants."""
    holds = grants = credits = 0
    while True:
        swept = ledger.sweep()
        db.session.commit()
        holds, grants, credits = holds + swept.holds, grants + swept.grants, credits + swept.credits
        if not swept.grants:
            break
    click.echo(f"{holds:,} holds lost, {grants:,} grants expired with {credits:,} credits.")


@commands.command("lost")
@click.option("--dismiss", metavar="REQUEST_ID", help="Remove a call from the list without charging it.")
def lost_command(dismiss: str | None) -> None:
    """List calls that neither settled nor failed; the provider may have charged for them."""
    if dismiss:
        lost = dismiss_lost_call(_spool(), dismiss)
        before = {"amount": lost.amount, "model": lost.model, "lost_at": lost.lost_at.isoformat()}
        record("billing.dismiss_lost", dismiss, actor=operator(), before=before)
        db.session.commit()
        click.echo(f"Dismissed {dismiss}.")
        return
    calls = ledger.lost_holds()
    known = {call.request_id for call in _spool().calls()}
    for lost in calls:
        click.echo(
            f"{_date(lost.lost_at)}  {lost.request_id}  {lost.email}  {lost.model}"
            f"  held {lost.amount:,}  run {lost.run_id or '-'}  worker {lost.worker}"
            + ("  usage known: flask billing unsettled" if lost.request_id in known else "")
        )
    if not calls:
        click.echo("No lost calls.")


@commands.command("flagged")
@click.option("--days", type=click.IntRange(1, 3650), default=30, show_default=True)
def flagged_command(days: int) -> None:
    """List charged calls with billing anomalies to review."""
    calls = flagged_calls(now() - timedelta(days=days))
    for call in calls:
        listed = (call.price or {}).get("listed")
        click.echo(
            f"{_date(call.finished_at)}  {call.request_id}  {', '.join(call.flags or ())}  {call.provider}"
            f"  {call.model}  ${call.cost.normalize():f}{f', listed ${listed}' if listed else ''}"
            f"  {call.credits:,} credits  {call.user_id}"
        )
    if not calls:
        click.echo(f"No flagged calls in the last {days} days.")


@commands.command("unsettled")
@click.option("--settle", is_flag=True, help="Retry now, and list the calls that the ledger still rejects.")
@click.option(
    "--dismiss", metavar="REQUEST_ID", help="Discard a call that is set aside, without charging it."
)
def unsettled_command(settle: bool, dismiss: str | None) -> None:
    """List this machine's finished calls that are not settled yet, with their usage.

    While a call is waiting, this machine admits no calls. A call that is set aside blocks only its own account.
    """
    spool = _spool()
    if dismiss:
        dismissed = spool.dismiss(dismiss)
        if dismissed is None:
            raise NotFound("No call with this id is set aside.")
        before = {name: value for name, value in _usage(dismissed).items() if value is not None}
        record("billing.dismiss_unsettled", dismiss, actor=operator(), before=before)
        db.session.commit()
        click.echo(f"Dismissed {dismiss}.")
        return
    if settle:
        settled = spool.settle_all()
        click.echo("A worker is settling them now." if settled is None else f"{settled:,} settled.")
    calls = spool.calls()
    for call in calls:
        usage = "  ".join(f"{name} {value}" for name, value in _usage(call).items() if value is not None)
        state = "damaged" if call.facts is None else "set aside" if call.aside else "waiting"
        click.echo(f"{_date(call.since)}  {call.request_id}  {state}  {usage}")
    if not calls:
        click.echo("All calls are settled.")


def _usage(call: UnsettledCall) -> dict[str, Any]:
    facts = call.facts or {}
    names = ("user_id", "org_id", "run_id", "provider", "model", "error", *TOKENS)
    return {name: facts.get(name) for name in names} | {"cost": f"${call.cost:.6f}" if facts else None}


def _spool() -> Spool:
    return cast(Gateway, current_app.extensions["gateway"]).spool


def account_of_name(name: str) -> tuple[Account, str]:
    """Look up an account by email address or organisation slug; returns it with its name. Raises NotFound."""
    org = by_slug(name)
    if org is not None:
        return Account(org_id=org.id), org.slug
    user = None
    with suppress(DomainError):
        user = by_email(clean_email(name))
    if user is None:
        raise NotFound(f"There is no user {name}." if "@" in name else f"There is no organisation {name}.")
    return Account(user_id=user.id), user.email


def operator() -> str:
    """The operating system user who runs the command, for the audit log."""
    try:
        return f"cli:{getpass.getuser()}"
    except (OSError, KeyError):
        return "cli"


def _date(moment: datetime | None) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC") if moment else "-"
