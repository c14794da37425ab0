"""`flask documents`: how documents are searched."""

import click
from flask import Flask

from models import index
from models.core import jobs
from models.core.db import db
from views.server import CommandGroup

commands = CommandGroup("documents", help="Uploaded documents: how they are searched.")


def init_app(app: Flask) -> None:
    """Register the commands."""
    app.cli.add_command(commands)


@commands.command("enable-vectors")
def enable_vectors() -> None:
    """Create the extension `vector` and its table if possible, and let a job make the vectors of all documents."""
    if index.enable_vectors():
        jobs.run_now(jobs.embed_documents)
    state = index.vector_state()
    db.session.commit()
    click.echo(f"Documents are searched by {state}.")
