"""The levels of isolation of this server: which of them work here, and opening a workplace at one."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

from models.core.errors import Conflict
from models.core.job_queue import Context
from models.runners.workplace import LEVELS, Level, Limits, Workplace

NO_RUNNER = "No runner of yours is connected. Start one on your machine to run commands there."


class LevelState(NamedTuple):
    """Whether a level works here. `sentence` says in one what it does, or why it does not work and what to do."""

    available: bool
    sentence: str


class LevelUnavailable(Conflict):
    """The level that was asked for does not work here. No other one is taken instead."""

    code = "level_unavailable"


class PeerSocket(Protocol):
    """A socket that programs of a workplace may use, such as `TurnSocket`."""

    @property
    def path(self) -> Path:
        """Where it listens."""

    def close(self) -> None:
        """Close it. Idempotent."""


@dataclass(frozen=True)
class WorkplaceRequest:
    """What a workplace is opened for. `root_manifest_hash` None is an empty tree. `socket`: the turn's socket to the model doors, which the workplace closes. `hosts`: those that
    commands may reach, by name; `on_host` hears each that they ask for, and whether it was allowed. `home`: the name in the account of a home folder that is kept on this server between workplaces, where the level has one. `context`: the application context of reads from
    storage, None for the current one."""

    account_id: str
    root_manifest_hash: str | None
    limits: Limits = field(default_factory=Limits)
    socket: PeerSocket | None = None
    hosts: Sequence[str] = ()
    on_host: Callable[[str, bool], None] | None = None
    runner_labels: Sequence[str] = ()
    home: str | None = None
    context: Context | None = None


Open = Callable[[WorkplaceRequest], Workplace]
Probe = Callable[[str | None], LevelState]
"""Tells the state of a level, for an account or for none in particular. Called often: it keeps what takes long."""

_OPEN: dict[Level, Open] = {}
_PROBES: dict[Level, Probe] = {}


def register_level(level: Level, open_function: Open, probe: Probe) -> None:
    """Name the code of a level, once, when its module is imported."""
    _OPEN[level], _PROBES[level] = open_function, probe


def levels(account_id: str | None = None) -> Mapping[Level, LevelState]:
    """The state of each level, for an account's runners too if one is given."""
    return {level: level_state(level, account_id) for level in LEVELS}


def level_state(level: Level, account_id: str | None = None) -> LevelState:
    """The state of one level, as `levels` gives it, without a look at the others."""
    return _PROBES[level](account_id) if level in _PROBES else LevelState(False, NO_RUNNER)


def open_workplace(
    level: Level,
    account_id: str,
    root_manifest_hash: str | None,
    *,
    limits: Limits | None = None,
    socket: PeerSocket | None = None,
    hosts: Sequence[str] = (),
    on_host: Callable[[str, bool], None] | None = None,
    runner_labels: Sequence[str] = (),
    home: str | None = None,
    context: Context | None = None,
) -> Workplace:
    """Open the tree of a manifest of the account, None for an empty one, at a level; see `WorkplaceRequest`. The caller closes it. Raises LevelUnavailable (409) with
    the reason if the level does not work here, NotFound for an unknown manifest, ManifestUnreadable, FilesUnavailable (503), BlobDamaged."""
    with (context or nullcontext)():
        state = level_state(level, account_id)
    if not state.available:
        raise LevelUnavailable(state.sentence)
    request = WorkplaceRequest(
        account_id,
        root_manifest_hash,
        limits or Limits(),
        socket,
        tuple(hosts),
        on_host,
        tuple(runner_labels),
        home,
        context,
    )
    return _OPEN[level](request)
