"""`flask usage`: what an operator does with the record of calls."""

import re
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import click
from flask import Flask

from models import admin
from models.core.db import db, now
from models.usage.pruning import FIRST, bodies_before, drop_bodies
from views.ledger.commands import operator
from views.server import CommandGroup

commands = CommandGroup("usage", help="The record of calls: dropping what was said in old ones.")

SPEAKS_EVERY = 2.0
"""Seconds between lines of progress."""


def init_app(app: Flask) -> None:
    """Register the commands."""
    app.cli.add_command(commands)


class DaysParam(click.ParamType[timedelta]):
    """A number of days or weeks, such as 90d or 12w; a day at least."""

    name = "age"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """The span, or a usage error."""
        found = re.fullmatch(r"([1-9][0-9]{0,3})([dw])", str(value), re.ASCII)
        if not found:
            self.fail(f"{value!r} is no age: write days or weeks, such as 90d or 12w.", param, ctx)
        return timedelta(days=int(found[1]) * (7 if found[2] == "w" else 1))


@commands.command("prune")
@click.option(
    "--older-than", type=DaysParam(), required=True, help="Days or weeks since the call ended: 90d, 12w."
)
@click.option("--dry-run", is_flag=True, help="Only count.")
def prune(older_than: timedelta, dry_run: bool) -> None:
    """Drop requests, answers and reasoning of old calls. What they cost stays, to the credit.

    Works in small transactions beside the traffic, resting as long as it works. Stop it at any moment: what was
    dropped stays dropped, and the next run goes on from there.
    """
    before = now() - older_than
    words = f"that ended before {before.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    left = bodies_before(before)
    db.session.rollback()
    if dry_run or not left:
        click.echo(f"{_calls(left)} {words} {'has' if left == 1 else 'have'} messages to drop.")
        return
    admin.record(
        "usage.prune",
        "messages",
        actor=operator(),
        after={"before": before.isoformat(), "calls": left},
    )
    db.session.commit()
    click.echo(f"Dropped the messages of {_calls(_drop(before, left))} {words}.")


def _drop(before: datetime, left: int) -> int:
    done, start, said = 0, FIRST, time.monotonic()
    while True:
        began = time.monotonic()
        batch = drop_bodies(before, start=start)
        db.session.commit()
        if batch.reached is None:
            return done
        done, start = done + batch.calls, batch.reached
        if time.monotonic() - said > SPEAKS_EVERY:
            said = time.monotonic()
            click.echo(f"{done:,} of {left:,}, up to {start:%Y-%m-%d %H:%M} UTC", err=True)
        time.sleep(time.monotonic() - began)


def _calls(count: int) -> str:
    return f"{count:,} call{'' if count == 1 else 's'}"
