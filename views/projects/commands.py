"""`flask projects`: operator commands for projects."""

import click
from flask import Flask

from models.core.db import db
from models.core.files import files
from models.projects import storage_proof
from models.projects.snapshots import blob_garbage
from views.server import CommandGroup
from views.web.guards import settings

commands = CommandGroup("projects", help="Projects: prove that no byte is lost, and collect garbage.")


def init_app(app: Flask) -> None:
    """Register the commands."""
    app.cli.add_command(commands)


@commands.command("prove")
@click.option("--account", "account_id", metavar="ID", help="One account only.")
def prove_command(account_id: str | None) -> None:
    """Check that every hash of every live tree exists and matches, and that heads, operations and versions agree.

    Reads every byte that a snapshot, workspace or operation names. Exit 1 if anything is wrong.
    """
    wrong = 0
    for each in [account_id] if account_id else storage_proof.accounts_to_prove():
        counts, problems = storage_proof.prove_account(each)
        wrong += len(problems)
        absent = f", {counts.absent:,} files never sent" if counts.absent else ""
        click.echo(
            f"{each}: {counts.manifests:,} manifests, {counts.trees:,} directories, {counts.blobs:,} files,"
            f" {counts.workspaces:,} workspaces{absent}"
        )
        for problem in problems:
            click.echo(f"  WRONG: {problem}")
    click.echo("Nothing is lost." if not wrong else f"{wrong:,} problems.")
    if wrong:
        raise SystemExit(1)


@commands.command("gc")
@click.argument("account_id")
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
def gc_command(account_id: str, dry_run: bool) -> None:
    """Remove bytes of an account that nothing has named for a day."""
    found = blob_garbage.collect(account_id, dry_run=dry_run)
    db.session.commit()
    blob_garbage.remove_packs(files(settings()), account_id, found.packs)
    verb = "would be removed" if dry_run else "removed"
    click.echo(f"{found.scanned:,} files, {found.orphaned:,} {verb}, {found.freed:,} bytes")
