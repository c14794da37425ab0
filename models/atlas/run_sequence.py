"""What a recorded run did in order, from its trace: the newest run that changed files of a project, with the runs that it spawned."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import select

from models.core.db import db, now
from models.core.errors import NotFound
from models.projects.project import Project
from models.projects.snapshots.snapshot import Snapshot
from models.runs.run import agent_name_of
from models.runs.trace import Trace, TraceBranch, trace_of
from models.runs.trace_rows import TraceEntry

MAX_MESSAGES = 200
"""Calls that are drawn, the first."""
MAX_PARTICIPANTS = 12
MAX_NAME = 60
KINDS = {"run": "agent", "model": "model", "tool": "tool"}
UNFINISHED = {"open": "running", "cancelled": "cancelled", "skipped": "skipped", "silent": "no end is known"}


class Participant(NamedTuple):
    """An agent, a model or a tool; those with one name are one. `others` stand for all beyond `MAX_PARTICIPANTS`."""

    id: str
    label: str
    kind: str


OTHERS = Participant("others", "others", "others")


@dataclass
class RecordedSequence:
    """Who took part, in the order of their first call, and the calls: caller, callee, how long it took and how it ended."""

    title: str = ""
    participants: list[Participant] = field(default_factory=list)
    messages: list[tuple[str, str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    run_id: str | None = None


def run_sequence(project: Project) -> RecordedSequence:
    """The calls of the newest run that made a snapshot of the project; notes say why there are none, or that there are more."""
    query = select(Snapshot.run_id).where(Snapshot.project_id == project.id, Snapshot.run_id.is_not(None))
    run_id = db.session.scalar(query.order_by(Snapshot.created_at.desc(), Snapshot.id.desc()).limit(1))
    nothing = "No run of an agent has changed this project yet. Once one does, its calls are drawn here."
    if run_id is None:
        return RecordedSequence(notes=[nothing])
    try:
        trace = trace_of(project.account_id, run_id, tail=False)
    except NotFound:
        return RecordedSequence(notes=["The run that changed this project last is of another account."])
    agent = _participant("run", agent_name_of(trace.summary.run))
    found = RecordedSequence(agent.label, [agent], run_id=run_id)
    calls = _Calls(trace, agent)
    more = False
    for entry in _entries(project.account_id, run_id, trace):
        more = len(found.messages) >= MAX_MESSAGES and entry.kind in KINDS
        if more:
            break
        calls.add(entry, found)
    if more:
        total = trace.summary.totals.all.calls
        found.notes.append(
            f"The first {MAX_MESSAGES} calls are shown. The run called models {total:,} times in all; its trace has every call."
        )
    if OTHERS in found.participants:
        found.notes.append(f"More than {MAX_PARTICIPANTS} took part: the last to come are drawn as others.")
    if not found.messages:
        found.notes.append("The run made no calls.")
    return found


class _Calls:
    """Finds out who called whom in a trace."""

    def __init__(self, trace: Trace, agent: Participant) -> None:
        self._moment = now()
        self._agents: dict[str, str] = {trace.summary.run.id: agent.id}
        self._root = trace.summary.run.id
        self._parents = dict(_parents(trace.tree))
        self._around: list[tuple[int, str]] = []

    def add(self, entry: TraceEntry, found: RecordedSequence) -> None:
        """Add the call that an entry is, and those who take part in it."""
        if entry.kind not in KINDS:
            return
        caller = self._caller(entry)
        callee = _known(_participant(entry.kind, entry.name), found)
        if entry.kind == "run":
            self._agents[entry.run_id or ""] = callee.id
        found.messages.append((caller, callee.id, _outcome(entry, self._moment)))

    def _caller(self, entry: TraceEntry) -> str:
        """The agent whose run made a call, or spawned a run: known by its id, or because the entry stands below it."""
        while self._around and self._around[-1][0] >= entry.depth:
            self._around.pop()
        run_id = entry.run_id or self._root
        if entry.kind == "run":
            above = self._around[-1][1] if self._around else self._root
            run_id = self._parents.get(run_id, above)
            self._around.append((entry.depth, entry.run_id or ""))
        return self._agents.get(run_id, self._agents[self._root])


def _entries(account_id: str, run_id: str, trace: Trace) -> Iterator[TraceEntry]:
    """All of a run after itself, page by page: no more are read than are asked for."""
    while True:
        yield from trace.window.entries[1:]
        if not trace.window.later:
            return
        trace = trace_of(account_id, run_id, after=trace.window.later, tail=False)


def _parents(branch: TraceBranch) -> Iterator[tuple[str, str]]:
    waiting = [branch]
    while waiting:
        each = waiting.pop()
        yield from ((child.run.id, each.run.id) for child in each.children)
        waiting += each.children


def _participant(kind: str, name: str) -> Participant:
    label = _readable(name)[:MAX_NAME] or KINDS[kind]
    return Participant(f"{KINDS[kind]}:{label}", label, KINDS[kind])


def _known(wanted: Participant, found: RecordedSequence) -> Participant:
    """The participant, or those that stand for it if there are too many."""
    if wanted in found.participants:
        return wanted
    named = [each for each in found.participants if each != OTHERS]
    if len(named) < MAX_PARTICIPANTS:
        found.participants.append(wanted)
        return wanted
    if len(named) == len(found.participants):
        found.participants.append(OTHERS)
    return OTHERS


def _outcome(entry: TraceEntry, moment: datetime) -> str:
    if entry.state in UNFINISHED:
        return UNFINISHED[entry.state]
    took = _duration(entry.duration_ms(moment))
    return f"{took}, failed" if entry.state == "failed" else took


def _duration(milliseconds: int) -> str:
    if milliseconds < 1_000:
        return f"{milliseconds} ms"
    return f"{timedelta(milliseconds=milliseconds).total_seconds():.1f} s"


def _readable(name: str) -> str:
    """A name in one line, without signs that cannot be seen: clients choose the names of agents and tools."""
    return " ".join("".join(each if each.isprintable() else " " for each in name).split())
