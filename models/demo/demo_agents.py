"""Demo agents, read from `definitions/` (one file per publisher), and their versions over time."""

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
    """A version: published `days` before seeding, its definition, and the reason if it was yanked."""

    version: str
    days: int
    definition: Mapping[str, Any]
    yanked: str | None = None


@dataclass(frozen=True)
class DemoDeprecation:
    """A deprecation: `days` before seeding, reason and successor."""

    days: int
    reason: str
    successor: str


@dataclass(frozen=True)
class DemoAgent:
    """An agent with its versions, oldest first, and the parameters of its runs: runs per day, ranges of calls per run and of
    input and output tokens per call, prompt and answer."""

    publisher: str
    id: str
    releases: Sequence[DemoVersion]
    runs_a_day: float
    calls: tuple[int, int]
    input_tokens: tuple[int, int]
    output_tokens: tuple[int, int]
    prompt: str
    answer: str
    readme: str | None
    deprecated: DemoDeprecation | None

    @property
    def name(self) -> str:
        """`publisher/agent`."""
        return f"{self.publisher}/{self.id}"

    def at(self, age: timedelta) -> DemoVersion | None:
        """The newest version published at least `age` before seeding, or None."""
        published = [each for each in self.releases if timedelta(days=each.days) >= age]
        return published[-1] if published else None


@dataclass(frozen=True)
class DemoPublisher:
    """A publisher: profile, key of its owner in `demo_people.NAMES`, name of its organisation."""

    id: str
    name: str
    bio: str
    email: str | None
    verified: bool
    owner: str
    organisation: str | None
    agents: Sequence[DemoAgent]


@cache
def publishers() -> tuple[DemoPublisher, ...]:
    """All publishers, by id."""
    return tuple(_publisher(path) for path in sorted(DEFINITIONS.glob("*.toml")))


@cache
def by_name() -> dict[str, DemoAgent]:
    """All agents by `publisher/agent`."""
    return {agent.name: agent for publisher in publishers() for agent in publisher.agents}


def published_at(release: DemoVersion, now: datetime) -> datetime:
    """When the version was published, relative to `now`: in office hours, at a different minute per agent."""
    minute = sum(release.version.encode()) * 37 + len(str(release.definition)) * 11
    day = now - timedelta(days=release.days)
    return min(day.replace(hour=8, minute=0, second=0, microsecond=0) + timedelta(minutes=minute % 560), now)


def _publisher(path: Path) -> DemoPublisher:
    raw = tomllib.loads(path.read_text())
    return DemoPublisher(
        id=path.stem,
        name=raw["name"],
        bio=raw["bio"],
        email=raw.get("email"),
        verified=raw.get("verified", False),
        owner=raw["owner"],
        organisation=raw.get("organisation"),
        agents=tuple(_agent(path.stem, raw.get("license"), each) for each in raw["agents"]),
    )


def _agent(publisher: str, license: str | None, raw: dict[str, Any]) -> DemoAgent:
    definition = {"id": raw["id"], "publisher": publisher, **raw["definition"]}
    if license:
        definition["license"] = license
    releases = []
    for each in raw["versions"]:
        changes = {key: value for key, value in each.items() if key not in ("days", "yanked")}
        lasting = {key: value for key, value in definition.items() if key != "changelog"}
        definition = lasting | changes
        releases.append(DemoVersion(each["version"], each["days"], definition, each.get("yanked")))
    return DemoAgent(
        publisher=publisher,
        id=raw["id"],
        releases=tuple(releases),
        runs_a_day=raw["runs_a_day"],
        calls=tuple(raw["calls"]),
        input_tokens=tuple(raw["reads"]),
        output_tokens=tuple(raw["writes"]),
        prompt=raw["asks"],
        answer=raw["says"],
        readme=raw.get("readme"),
        deprecated=DemoDeprecation(**raw["deprecated"]) if "deprecated" in raw else None,
    )
