"""What a recorded run did in order, from its trace: the newest run that changed files of a project."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from sqlalchemy import select

from models.core.db import db, now
from models.core.errors import NotFound
from models.projects.project import Project
from models.projects.snapshots.snapshot import Snapshot
from models.runs.trace import trace_of
from models.runs.trace_rows import TraceEntry

MAX_MESSAGES = 40
MAX_PARTICIPANTS = 10
OTHERS = "other tools"


@dataclass
class RecordedSequence:
    """Who took part, in the order of their first call, and the calls: caller, callee, and how long it took."""

    title: str = ""
    participants: list[str] = field(default_factory=list)
    messages: list[tuple[str, str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    run_id: str | None = None


def run_sequence(project: Project) -> RecordedSequence:
    """The calls of the newest run that made a snapshot of the project; notes say why there are none."""
    query = select(Snapshot.run_id).where(Snapshot.project_id == project.id, Snapshot.run_id.is_not(None))
    run_id = db.session.scalar(query.order_by(Snapshot.created_at.desc()).limit(1))
    nothing = "No run of an agent has changed this project yet. Once one does, its calls are drawn here."
    if run_id is None:
        return RecordedSequence(notes=[nothing])
    try:
        trace = trace_of(project.account_id, run_id, tail=False)
    except NotFound:
        return RecordedSequence(notes=["The run that changed this project last is of another account."])
    agent = trace.summary.run.agent_id or "Agent"
    found = RecordedSequence(title=agent[:80], participants=[agent[:60]], run_id=run_id)
    calls = [each for each in trace.window.entries if each.kind in ("model", "tool")]
    names = list(dict.fromkeys(each.name[:60] or each.kind for each in calls))
    found.participants += [name for name in names[:MAX_PARTICIPANTS] if name != found.participants[0]]
    if len(names) > MAX_PARTICIPANTS:
        found.participants.append(OTHERS)
    found.messages = _messages(found, calls[:MAX_MESSAGES])
    if len(calls) > MAX_MESSAGES or trace.window.later:
        found.notes.append(f"Only the first {len(found.messages)} calls are shown.")
    if not calls:
        found.notes.append("The run made no calls.")
    return found


def _messages(found: RecordedSequence, calls: Sequence[TraceEntry]) -> list[tuple[str, str, str]]:
    agent, moment, messages = found.participants[0], now(), []
    for each in calls:
        name = each.name[:60] or each.kind
        label = _duration(each.duration_ms(moment)) if each.state in ("done", "failed") else each.state
        if each.state == "failed":
            label += ", failed"
        messages.append((agent, name if name in found.participants else OTHERS, label))
    return messages


def _duration(milliseconds: int) -> str:
    if milliseconds < 1_000:
        return f"{milliseconds} ms"
    return f"{timedelta(milliseconds=milliseconds).total_seconds():.1f} s"
