"""`flask demo`: make and remove the made-up people, their agents and a month of their runs."""

import click
from flask import Flask, current_app

from models import demo
from models.core.db import db
from models.core.pool import Pool
from views.server import CommandGroup
from views.web.guards import settings

commands = CommandGroup(
    "demo", help="The made-up people whose agents and runs fill the pages of a new server."
)


def init_app(app: Flask) -> None:
    """Register the commands."""
    app.cli.add_command(commands)


@commands.command("seed")
def seed() -> None:
    """Make the demo user, a store of agents, and a month of runs that end today."""
    pool = Pool(current_app.config["SQLALCHEMY_DATABASE_URI"], 1)
    try:
        calls = demo.seed(pool, settings(), commit=db.session.commit)
    finally:
        pool.close()
    click.echo(f"{calls} demo calls were settled." if calls else "The demo is there already.")


@commands.command("remove")
def remove() -> None:
    """Delete the demo user, the other made-up people, and everything that is theirs, agents included."""
    removed = demo.remove()
    db.session.commit()
    click.echo("The demo is gone." if removed else "There is no demo.")
