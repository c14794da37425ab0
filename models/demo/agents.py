"""The made-up agents: read from `shelf/`, one file a publisher, and which version of each there was at which moment."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

SHELF = Path(__file__).with_name("shelf")


@dataclass(frozen=True)
class Release:
    """One version: how many days before the seeding it was published, its definition, and why it was withdrawn."""

    version: str
    days: int
    definition: Mapping[str, Any]
    yanked: str | None = None


@dataclass(frozen=True)
class Withdrawal:
    """That an agent is deprecated: how many days before the seeding, why, and what follows it."""

    days: int
    reason: str
    successor: str


@dataclass(frozen=True)
class MadeUp:
    """An agent with its versions, oldest first, and how its runs are: how many a day, how many calls each, how many
    tokens a call reads and writes, what is asked and answered."""

    publisher: str
    id: str
    releases: Sequence[Release]
    runs_a_day: float
    calls: tuple[int, int]
    reads: tuple[int, int]
    writes: tuple[int, int]
    asks: str
    says: str
    readme: str | None
    deprecated: Withdrawal | None

    @property
    def name(self) -> str:
        """`publisher/agent`."""
        return f"{self.publisher}/{self.id}"

    def at(self, age: timedelta) -> Release | None:
        """The newest version that was out so long before the seeding; None when there was none yet."""
        out = [each for each in self.releases if timedelta(days=each.days) >= age]
        return out[-1] if out else None


@dataclass(frozen=True)
class House:
    """A publisher: what it says of itself, the key of its owner among the people, the name of its organisation."""

    id: str
    name: str
    bio: str
    email: str | None
    verified: bool
    owner: str
    organisation: str | None
    agents: Sequence[MadeUp]


@cache
def houses() -> tuple[House, ...]:
    """All publishers, by id."""
    return tuple(_house(path) for path in sorted(SHELF.glob("*.toml")))


@cache
def by_name() -> dict[str, MadeUp]:
    """All agents by `publisher/agent`."""
    return {agent.name: agent for house in houses() for agent in house.agents}


def published_at(release: Release, now: datetime) -> datetime:
    """When the version was published, seen from `now`: in office hours, never the same minute for two agents."""
    minute = sum(release.version.encode()) * 37 + len(str(release.definition)) * 11
    day = now - timedelta(days=release.days)
    return min(day.replace(hour=8, minute=0, second=0, microsecond=0) + timedelta(minutes=minute % 560), now)


def _house(path: Path) -> House:
    raw = tomllib.loads(path.read_text())
    return House(
        id=path.stem,
        name=raw["name"],
        bio=raw["bio"],
        email=raw.get("email"),
        verified=raw.get("verified", False),
        owner=raw["owner"],
        organisation=raw.get("organisation"),
        agents=tuple(_agent(path.stem, each) for each in raw["agents"]),
    )


def _agent(publisher: str, raw: dict[str, Any]) -> MadeUp:
    definition = {"id": raw["id"], "publisher": publisher, **raw["definition"]}
    releases = []
    for each in raw["versions"]:
        changes = {key: value for key, value in each.items() if key not in ("days", "yanked")}
        definition = definition | changes
        releases.append(Release(each["version"], each["days"], definition, each.get("yanked")))
    return MadeUp(
        publisher=publisher,
        id=raw["id"],
        releases=tuple(releases),
        runs_a_day=raw["runs_a_day"],
        calls=tuple(raw["calls"]),
        reads=tuple(raw["reads"]),
        writes=tuple(raw["writes"]),
        asks=raw["asks"],
        says=raw["says"],
        readme=raw.get("readme"),
        deprecated=Withdrawal(**raw["deprecated"]) if "deprecated" in raw else None,
    )
