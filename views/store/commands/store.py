"""`flask store`: the operator's commands for the store."""

from pathlib import Path

import click
from flask import Flask

from models.billing import record_store_proof
from models.core.audit_log import record
from models.core.db import db, now
from models.core.errors import DomainError
from models.store import publishers
from models.store.publishing import importing, takedowns, withdrawing
from models.store.publishing.takedowns import StoreName, TakenDown
from models.store.statistics import store_proof
from views.ledger.commands import operator
from views.server import CommandGroup
from views.store.commands.definitions import read_definitions

commands = CommandGroup(
    "store", help="The agent store: import, verified publishers, takedowns, proof of statistics."
)


def init_app(app: Flask) -> None:
    """Register the commands."""
    app.cli.add_command(commands)


@commands.command("verify")
@click.argument("publisher")
@click.option("--remove", is_flag=True, help="Remove the mark.")
def verify_command(publisher: str, remove: bool) -> None:
    """Mark PUBLISHER as verified: you know who is behind it."""
    name = publisher.removeprefix("@")
    try:
        changed = publishers.verify(name, not remove)
    except DomainError as error:
        raise click.ClickException(error.message) from None
    if changed:
        record(
            "publisher.unverified" if remove else "publisher.verified",
            name,
            actor=operator(),
            before={"verified": remove},
            after={"verified": not remove},
        )
        db.session.commit()
    state = "not verified" if remove else "verified"
    click.echo(f"@{name} is {state}{' now' if changed else ' already'}.")


@commands.command("takedown")
@click.argument("name", metavar="PUBLISHER|AGENT")
@click.option("--reason", required=True, help="The public reason, one sentence.")
def takedown_command(name: str, reason: str) -> None:
    """Take a publisher, an agent (`publisher/agent`) or a version (`publisher/agent@1.0.0`) out of the store.

    It disappears from every list at once; its pages show the reason. It cannot be loaded, run or published to. Its
    statistics are kept. Repeat with another --reason to change the reason. `flask store restore` undoes it.
    """
    place = _name(name)
    try:
        changed = withdrawing.take_down(place, reason, operator(), now())
    except DomainError as error:
        raise click.ClickException(error.message) from None
    if changed:
        record("store.taken_down", str(place), actor=operator(), after={"reason": reason.strip()})
        db.session.commit()
    click.echo(f"{place} is taken down{' now' if changed else ' already'}.")


@commands.command("restore")
@click.argument("name", metavar="PUBLISHER|AGENT")
def restore_command(name: str) -> None:
    """Undo the takedown of this name."""
    place = _name(name)
    try:
        changed = withdrawing.restore(place)
    except DomainError as error:
        raise click.ClickException(error.message) from None
    if changed:
        record("store.restored", str(place), actor=operator())
        db.session.commit()
    click.echo(f"{place} is {'no longer taken down' if changed else 'not taken down itself'}.")
    try:
        takedowns.refuse(place.publisher_id, place.agent_id, place.version)
    except TakenDown as down:
        click.echo(f"It stays hidden because {down.name} is taken down.")


def _name(text: str) -> StoreName:
    name = StoreName.parse(text)
    if name is None:
        raise click.ClickException(
            f"Invalid name {text!r}. Use publisher, publisher/agent or publisher/agent@1.0.0."
        )
    return name


@commands.command("prove")
@click.option("--repair", is_flag=True, help="Recount the agents that differ, then prove again.")
def prove_command(repair: bool) -> None:
    """Recompute all statistics from the runs and their calls, and record the result; exit 1 if any differ."""
    _, found = record_store_proof()
    _print_proof(found)
    if repair and found.differences:
        agents = sorted({(each.publisher_id, each.agent_id) for each in found.differences})
        for agent in agents:
            store_proof.repair(*agent)
            db.session.commit()
        click.echo(f"Recounted {len(agents):,} {'agent' if len(agents) == 1 else 'agents'}.")
        _, found = record_store_proof()
        _print_proof(found)
    if found.differences:
        raise SystemExit(1)


@commands.command("import")
@click.argument("place", metavar="FOLDER_OR_FILE", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--publisher", required=True, metavar="P", help="The publisher to publish under; overrides the files."
)
def import_command(place: Path, publisher: str) -> None:
    """Publish the agent definitions in JSON, YAML and TypeScript files, and print the outcome of each.

    Safe to repeat: an unchanged definition is not published again. Exit 1 if any was refused.
    """
    found, unread = read_definitions(place)
    try:
        outcomes = [*importing.import_definitions(publisher.removeprefix("@"), found), *unread]
    except DomainError as error:
        raise click.ClickException(error.message) from None
    for each in outcomes:
        if each.outcome == "published":
            record(
                "agent.published",
                each.detail,
                actor=operator(),
                after={"credential": "import"},
            )
    db.session.commit()
    for each in sorted(outcomes, key=lambda each: each.source):
        click.echo(_plain(f"{each.outcome:<9}  {each.source}: {each.detail}"))
    counts = [
        f"{sum(each.outcome == outcome for each in outcomes):,} {outcome}"
        for outcome in ("published", "unchanged", "refused")
    ]
    click.echo(f"{', '.join(counts)}.")
    if any(each.outcome == "refused" for each in outcomes):
        raise SystemExit(1)


def _plain(text: str) -> str:
    """Replace control characters: untrusted text could control the terminal."""
    return "".join(each if each == "\n" or each.isprintable() else "\ufffd" for each in text)


def _print_proof(found: store_proof.StoreProof) -> None:
    for check in found.checks:
        click.echo(f"{'DRIFT' if check.differences else 'ok   '}  {check.name}")
        for each in check.differences:
            click.echo(
                f"         {each.publisher_id}/{each.agent_id}, {each.subject}:"
                f" expected {each.expected}, found {each.found}"
            )
    click.echo(
        f"{found.agents:,} agents, {found.versions:,} versions, {found.runs:,} finished runs: "
        + (f"{len(found.differences):,} statistics differ." if found.differences else "all statistics agree.")
    )
    if found.waiting:
        click.echo(f"{found.waiting:,} more are waiting to be counted.")
