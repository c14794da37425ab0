"""The made-up agents: read from `definitions/`, one file a publisher, and which version of each there was at which moment."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

DEFINITIONS = Path(__file__).with_name("definitions")


@dataclass(frozen=True)
class DemoVersion:
    """One version: how many days before the seeding it was published, its definition, and why it was withdrawn."""

    version: str
    days: int
    definition: Mapping[str, Any]
    yanked: str | None = None


@dataclass(frozen=True)
class DemoDeprecation:
    """That an agent is deprecated: how many days before the seeding, why, and what follows it."""

    days: int
    reason: str
    successor: str


@dataclass(frozen=True)
class DemoAgent:
    """An agent with its versions, oldest first, and how its runs are: how many a day, how many calls each, how many
    tokens a call reads and writes, what is asked and answered."""

    publisher: str
    id: str
    releases: Sequence[DemoVersion]
    runs_a_day: float
    calls: tuple[int, int]
    reads: tuple[int, int]
    writes: tuple[int, int]
    asks: str
    says: str
    readme: str | None
    deprecated: DemoDeprecation | None

    @property
    def name(self) -> str:
        """`publisher/agent`."""
        return f"{self.publisher}/{self.id}"

    def at(self, age: timedelta) -> DemoVersion | None:
        """The newest version that was out so long before the seeding; None when there was none yet."""
        out = [each for each in self.releases if timedelta(days=each.days) >= age]
        return out[-1] if out else None


@dataclass(frozen=True)
class DemoPublisher:
    """A publisher: what it says of itself, the key of its owner among the people, the name of its organisation."""

    id: str
    name: str
    bio: str
    email: str | None
    verified: bool
    owner: str
    organisation: str | None
    agents: Sequence[DemoAgent]


@cache
def houses() -> tuple[DemoPublisher, ...]:
    """All publishers, by id."""
    return tuple(_house(path) for path in sorted(DEFINITIONS.glob("*.toml")))


@cache
def by_name() -> dict[str, DemoAgent]:
    """All agents by `publisher/agent`."""
    return {agent.name: agent for house in houses() for agent in house.agents}


def published_at(release: DemoVersion, now: datetime) -> datetime:
    """When the version was published, seen from `now`: in office hours, never the same minute for two agents."""
    minute = sum(release.version.encode()) * 37 + len(str(release.definition)) * 11
    day = now - timedelta(days=release.days)
    return min(day.replace(hour=8, minute=0, second=0, microsecond=0) + timedelta(minutes=minute % 560), now)


def _house(path: Path) -> DemoPublisher:
    raw = tomllib.loads(path.read_text())
    return DemoPublisher(
        id=path.stem,
        name=raw["name"],
        bio=raw["bio"],
        email=raw.get("email"),
        verified=raw.get("verified", False),
        owner=raw["owner"],
        organisation=raw.get("organisation"),
        agents=tuple(_agent(path.stem, each) for each in raw["agents"]),
    )


def _agent(publisher: str, raw: dict[str, Any]) -> DemoAgent:
    definition = {"id": raw["id"], "publisher": publisher, **raw["definition"]}
    releases = []
    for each in raw["versions"]:
        changes = {key: value for key, value in each.items() if key not in ("days", "yanked")}
        definition = definition | changes
        releases.append(DemoVersion(each["version"], each["days"], definition, each.get("yanked")))
    return DemoAgent(
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
        deprecated=DemoDeprecation(**raw["deprecated"]) if "deprecated" in raw else None,
    )
