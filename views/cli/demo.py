"""`flask demo`: make and remove the demo user with a month of made-up runs."""

import click
from flask import Flask, current_app

from models import billing, demo
from models.db import db
from views.cli import Commands
from views.guards import settings

commands = Commands("demo", help="The made-up user whose runs fill the pages of a new server.")


def init_app(app: Flask) -> None:
    """Register the commands."""
    app.cli.add_command(commands)


@commands.command("seed")
def seed() -> None:
    """Make the demo user with a month of runs that end today."""
    engine = billing.gateway_engine(current_app.config["SQLALCHEMY_DATABASE_URI"], 1)
    try:
        calls = demo.seed(db.session(), engine, settings(), commit=db.session.commit)
    finally:
        engine.dispose()
    click.echo(f"{calls} demo calls were settled." if calls else "The demo is there already.")


@commands.command("remove")
def remove() -> None:
    """Delete the demo user and everything that is theirs."""
    removed = demo.remove(db.session())
    db.session.commit()
    click.echo("The demo is gone." if removed else "There is no demo.")
