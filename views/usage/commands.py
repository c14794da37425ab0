"""`flask usage`: maintenance of stored calls."""

import re
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import click
from flask import Flask

from models.core.audit_log import record
from models.core.db import db, now
from models.usage.pruning import BEGINNING, bodies_before, drop_bodies, drop_failed_bodies
from views.ledger.commands import operator
from views.server import CommandGroup

commands = CommandGroup("usage", help="Stored calls: prune the messages of old ones.")

PROGRESS_INTERVAL = 2.0
"""Seconds between progress lines."""


def init_app(app: Flask) -> None:
    """Register the commands."""
    app.cli.add_command(commands)


class DaysParam(click.ParamType[timedelta]):
    """A number of days or weeks, at least one day, such as 90d or 12w."""

    name = "age"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """Parse the duration; fail with a usage error if it is invalid."""
        found = re.fullmatch(r"([1-9][0-9]{0,3})([dw])", str(value), re.ASCII)
        if not found:
            self.fail(f"{value!r} is not a valid age: use days or weeks, such as 90d or 12w.", param, ctx)
        return timedelta(days=int(found[1]) * (7 if found[2] == "w" else 1))


@commands.command("prune")
@click.option("--older-than", type=DaysParam(), required=True, help="Minimum age in days or weeks: 90d, 12w.")
@click.option("--dry-run", is_flag=True, help="Only count the calls.")
def prune(older_than: timedelta, dry_run: bool) -> None:
    """Delete requests, responses, reasoning and errors of old calls, charged or failed. Billing data stays.

    Runs in small transactions that do not block traffic, and pauses as long as each one takes. Safe to interrupt: the
    next run continues.
    """
    before = now() - older_than
    which = f"that ended before {before.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    left = bodies_before(before)
    db.session.rollback()
    if dry_run or not left:
        click.echo(f"{_calls(left)} {which} {'has' if left == 1 else 'have'} messages to delete.")
        return
    record(
        "usage.prune",
        "messages",
        actor=operator(),
        after={"before": before.isoformat(), "calls": left},
    )
    db.session.commit()
    click.echo(f"Deleted the messages of {_calls(_drop(before, left))} {which}.")


def _drop(before: datetime, left: int) -> int:
    done, reported = 0, time.monotonic()
    for drop in (drop_bodies, drop_failed_bodies):
        start = BEGINNING
        while True:
            began = time.monotonic()
            batch = drop(before, start=start)
            db.session.commit()
            if batch.reached is None:
                break
            done, start = done + batch.calls, batch.reached
            if time.monotonic() - reported > PROGRESS_INTERVAL:
                reported = time.monotonic()
                click.echo(f"{done:,} of {left:,}, up to {start:%Y-%m-%d %H:%M} UTC", err=True)
            time.sleep(time.monotonic() - began)
    return done


def _calls(count: int) -> str:
    return f"{count:,} call{'' if count == 1 else 's'}"
