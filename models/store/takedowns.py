"""What operators took out of the store: whether something is, and what is said instead of showing it.

A takedown of a publisher covers its agents, one of an agent its versions. `withdrawing.take_down` makes them. Lists need not
ask: `catalogue.refresh` leaves an agent without a version to show.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select, text

from models.asking import read
from models.db import Database
from models.errors import DomainError
from models.pool import Pool
from models.store.tables import Takedown

_NAME = re.compile(r"@?([^/@\s]+)(?:/([^/@\s]+)(?:@([^/@\s]+))?)?")


@dataclass(frozen=True, slots=True)
class Name:
    """`publisher`, `publisher/agent` or `publisher/agent@version`; what is not named is empty."""

    publisher_id: str
    agent_id: str = ""
    version: str = ""

    @classmethod
    def parse(cls, text: str) -> "Name | None":
        """From words; None for any other form."""
        found = _NAME.fullmatch(text)
        return cls(found[1], found[2] or "", found[3] or "") if found else None

    def __str__(self) -> str:
        return f"{self.publisher_id}{'/' if self.agent_id else ''}{self.agent_id}{'@' if self.version else ''}{self.version}"


class TakenDown(DomainError):
    """It is there and not shown. `name` is what was taken down, which may be more than what was asked for."""

    status = 410
    code = "taken_down"

    def __init__(self, name: Name, reason: str, at: datetime) -> None:
        day = at.astimezone(UTC)
        super().__init__(
            f"{name} was taken down by the operator of this server on {day:%B} {day.day}, {day.year}: {reason}"
        )
        self.name, self.reason, self.at = name, reason, at


def covers(publisher: str, agent: str, version: str = "''") -> str:
    """SQL for whether something is taken down, itself or with what it belongs to. The arguments are SQL, too; without a
    version it asks about the agent."""
    return f"EXISTS (SELECT {_standing(publisher, agent, version)})"


def _standing(publisher: str, agent: str, version: str) -> str:
    return (
        f"FROM takedown AS down WHERE down.publisher_id = {publisher}"
        f" AND down.agent_id IN ('', {agent}) AND down.version IN ('', {version})"
    )


def _widest(publisher: str, agent: str, version: str) -> str:
    standing = _standing(publisher, agent, version)
    return f"SELECT publisher_id, agent_id, version, reason, at {standing} ORDER BY agent_id, version LIMIT 1"


_WIDEST = text(_widest(":publisher", ":agent", ":version"))
_WIDEST_AT_ONCE = _widest("$1", "$2", "$3")


def standing(
    database: Database, publisher_id: str, agent_id: str = "", version: str = ""
) -> TakenDown | None:
    """What is said of it if it is taken down, itself or with what it belongs to; the widest. One statement."""
    names = {"publisher": publisher_id, "agent": agent_id, "version": version}
    if any("\x00" in name for name in names.values()):
        return None
    return _first(database.execute(_WIDEST, names).all())


def refuse(database: Database, publisher_id: str, agent_id: str = "", version: str = "") -> None:
    """Raise what is `standing`, if something is."""
    _raise(standing(database, publisher_id, agent_id, version))


def refuse_at_once(pool: Pool, publisher_id: str, agent_id: str, version: str) -> None:
    """As `refuse`, for pages that hold no session."""
    _raise(_first(read(pool, _WIDEST_AT_ONCE, (publisher_id, agent_id, version))))


def refuse_run(database: Database, agent: str) -> None:
    """Raise TakenDown if the agent that a client wants to run is, written as `Name`; any other name may be run."""
    name = Name.parse(agent)
    if name and name.agent_id:
        refuse(database, name.publisher_id, name.agent_id, name.version)


def refuse_any(database: Database, publisher_id: str, agent_ids: Collection[str]) -> None:
    """Raise TakenDown if the publisher is, or one of these agents of it. One statement."""
    wanted = select(Takedown.publisher_id, Takedown.agent_id, Takedown.version, Takedown.reason, Takedown.at)
    wanted = wanted.where(Takedown.publisher_id == publisher_id, Takedown.version == "")
    wanted = wanted.where(Takedown.agent_id.in_(["", *agent_ids])).order_by(Takedown.agent_id)
    _raise(_first(database.execute(wanted).all()))


def _first(rows: Sequence[Sequence[Any]]) -> TakenDown | None:
    for publisher_id, agent_id, version, reason, at in rows:
        return TakenDown(Name(publisher_id, agent_id, version), reason, at)
    return None


def _raise(down: TakenDown | None) -> None:
    if down is not None:
        raise down
