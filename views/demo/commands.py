"""`flask demo`: create and remove the demo data."""

import click
from flask import Flask, current_app

from models import demo
from models.core.db import db
from models.core.pool import Pool
from views.server import CommandGroup
from views.web.guards import settings

commands = CommandGroup("demo", help="Demo users, agents and runs for a new server.")


def init_app(app: Flask) -> None:
    """Register the commands."""
    app.cli.add_command(commands)


@commands.command("seed")
def seed() -> None:
    """Create the demo user, a store of agents, and a month of runs that ends today."""
    pool = Pool(current_app.config["SQLALCHEMY_DATABASE_URI"], 1)
    try:
        calls = demo.seed(pool, settings(), commit=db.session.commit)
    finally:
        pool.close()
    click.echo(f"Demo created: {calls} calls settled." if calls else "The demo already exists.")


@commands.command("remove")
def remove() -> None:
    """Delete the demo users and all their data, agents included."""
    removed = demo.remove()
    db.session.commit()
    click.echo("Demo removed." if removed else "There is no demo.")
