"""`flask doctor`: what needs an operator, as on `/admin`."""

import click
from flask import Flask, current_app
from flask.cli import with_appcontext

from models.admin import job_review
from models.deployments.process_adapter import program_summary
from models.gateway.server_check import check_server
from models.index import vector_state
from models.runners import levels
from views.admin.pages.admin_overview import needs_attention
from views.admin.pages.proof_pages import summaries
from views.gateway.api.model_calls import gateway
from views.server import CommandGroup
from views.web.format import duration_ms, moment


@click.group("doctor", cls=CommandGroup, invoke_without_command=True)
@with_appcontext
def commands() -> None:
    """Print what needs an operator, whether the servers of STOA_PROVIDERS_FILE can be reached, which levels of isolation work, whether programs of deployments run, the job worker and the last proofs; exit 1
    if something is urgent."""
    found = needs_attention()
    for each in found:
        click.echo(f"{'URGENT' if each.urgent else 'review'}  {each.text}")
    if not found:
        click.echo("Nothing needs attention.")
    for server in gateway(current_app).routes.configured.values():
        click.echo(f"server {server.name}  {check_server(server)}")
    for name, level in levels().items():
        click.echo(f"level {name}  {'works' if level.available else 'does not work'}: {level.sentence}")
    click.echo(f"programs of deployments  {program_summary()}")
    click.echo(f"documents  searched by {vector_state()}")
    click.echo(f"job worker  last report {moment(job_review.last_heartbeat())}")
    for proof in summaries():
        last = proof.last
        when = f"{moment(last.started_at)}, {duration_ms(last.took_ms)}: {last.result}" if last else "never"
        click.echo(f"{proof.title.lower():<6} proof  {when}")
    if any(each.urgent for each in found):
        raise click.exceptions.Exit(1)


def init_app(app: Flask) -> None:
    """Register the command."""
    app.cli.add_command(commands)
