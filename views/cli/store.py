"""`flask store`: what an operator does with the store."""

import click
from flask import Flask

from models.db import db
from models.store import proof
from views.cli import Commands

commands = Commands("store", help="The agent store: the proof of its figures.")


def init_app(app: Flask) -> None:
    """Register the commands."""
    app.cli.add_command(commands)


@commands.command("prove")
@click.option("--repair", is_flag=True, help="Count the agents that differ anew, then prove again.")
def prove_command(repair: bool) -> None:
    """Recompute every figure from the runs and their calls; exit 1 if any differs."""
    found = proof.prove(db.session)
    _tell(found)
    if repair and found.differences:
        agents = sorted({(each.publisher_id, each.agent_id) for each in found.differences})
        for agent in agents:
            proof.repair(db.session, *agent)
            db.session.commit()
        click.echo(f"Counted {len(agents):,} {'agent' if len(agents) == 1 else 'agents'} anew.")
        found = proof.prove(db.session)
        _tell(found)
    if found.differences:
        raise SystemExit(1)


def _tell(found: proof.Proof) -> None:
    for check in found.checks:
        click.echo(f"{'DRIFT' if check.differences else 'ok   '}  {check.name}")
        for each in check.differences:
            click.echo(
                f"         {each.publisher_id}/{each.agent_id}, {each.subject}:"
                f" expected {each.expected}, found {each.found}"
            )
    click.echo(
        f"{found.agents:,} agents, {found.versions:,} versions, {found.runs:,} finished runs: "
        + (f"{len(found.differences):,} figures differ." if found.differences else "all figures agree.")
    )
