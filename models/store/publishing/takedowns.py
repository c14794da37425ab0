"""Takedowns: checks whether a publisher, an agent or a version was taken down.

A takedown of a publisher covers its agents, one of an agent its versions. `withdrawing.take_down` creates them. Lists need no
check: `catalogue.refresh` sets `latest_version` to null.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import aliased

from models.core.db import db
from models.core.errors import DomainError
from models.store.tables import Takedown

_NAME = re.compile(r"@?([^/@\s]+)(?:/([^/@\s]+)(?:@([^/@\s]+))?)?")


@dataclass(frozen=True, slots=True)
class StoreName:
    """`publisher`, `publisher/agent` or `publisher/agent@version`; absent parts are empty."""

    publisher_id: str
    agent_id: str = ""
    version: str = ""

    @classmethod
    def parse(cls, text: str) -> "StoreName | None":
        """Parse a name, with or without a leading @; None if malformed."""
        found = _NAME.fullmatch(text)
        return cls(found[1], found[2] or "", found[3] or "") if found else None

    def __str__(self) -> str:
        return f"{self.publisher_id}{'/' if self.agent_id else ''}{self.agent_id}{'@' if self.version else ''}{self.version}"


class TakenDown(DomainError):
    """Taken down. `name` is the target of the takedown, which may cover more than the requested object."""

    status = 410
    code = "taken_down"

    def __init__(self, name: StoreName, reason: str, at: datetime) -> None:
        day = at.astimezone(UTC)
        super().__init__(
            f"{name} was taken down by the operator of this server on {day:%B} {day.day}, {day.year}: {reason}"
        )
        self.name, self.reason, self.at = name, reason, at


def covers(
    publisher_id: Any,
    agent_id: Any,
    version: Any = "",
) -> ColumnElement[bool]:
    """SQL condition: whether a takedown covers the version, without a version the agent, with an empty agent the publisher.
    Arguments are columns or values."""
    down = aliased(Takedown)
    return select(down.publisher_id).where(*_covering(down, publisher_id, agent_id, version)).exists()


def _covering(down: Any, publisher_id: Any, agent_id: Any, version: Any) -> tuple[ColumnElement[bool], ...]:
    return (
        down.publisher_id == publisher_id,
        down.agent_id.in_(["", agent_id]),
        down.version.in_(["", version]),
    )


def find(publisher_id: str, agent_id: str = "", version: str = "") -> TakenDown | None:
    """The widest takedown that covers it, or None. One statement."""
    if "\x00" in publisher_id + agent_id + version:
        return None
    return _widest(*_covering(Takedown, publisher_id, agent_id, version))


def refuse(publisher_id: str, agent_id: str = "", version: str = "") -> None:
    """Raise TakenDown if a takedown covers it."""
    _raise(find(publisher_id, agent_id, version))


def refuse_run(agent: str) -> None:
    """Raise TakenDown if a takedown covers the agent of a new run. Names that are not a `StoreName` pass."""
    name = StoreName.parse(agent)
    if name and name.agent_id:
        refuse(name.publisher_id, name.agent_id, name.version)


def refuse_any(publisher_id: str, agent_ids: Collection[str]) -> None:
    """Raise TakenDown if the publisher or one of these agents is taken down. One statement."""
    _raise(
        _widest(
            Takedown.publisher_id == publisher_id,
            Takedown.agent_id.in_(["", *agent_ids]),
            Takedown.version == "",
        )
    )


def _widest(*conditions: ColumnElement[bool]) -> TakenDown | None:
    query = select(Takedown).where(*conditions).order_by(Takedown.agent_id, Takedown.version).limit(1)
    down = db.session.scalar(query)
    if down is None:
        return None
    return TakenDown(StoreName(down.publisher_id, down.agent_id, down.version), down.reason, down.at)


def _raise(down: TakenDown | None) -> None:
    if down is not None:
        raise down


def listed_takedowns(limit: int) -> Sequence[Takedown]:
    """The takedowns in force, newest first."""
    order = (Takedown.at.desc(), Takedown.publisher_id, Takedown.agent_id, Takedown.version)
    return db.session.scalars(select(Takedown).order_by(*order).limit(limit)).all()
