"""What the subjects of the operators' audit log name, where it still exists: people, organisations, calls, runs, agents, plans,
purchases, evaluation results, jobs."""

from collections.abc import Collection, Sequence
from typing import Any, Literal, NamedTuple

from sqlalchemy import Select, literal, null, select, tuple_, union_all

from models.accounts.users import User
from models.admin.git_evals import GitEvalResults
from models.admin.job_review import existing_jobs
from models.billing import Plan, Purchase
from models.core.audit_log import AuditLog
from models.core.db import db
from models.gateway.gateway_call import GatewayCall
from models.ledger import CreditHold
from models.orgs import Org
from models.runs import AgentRun
from models.store import Agent, Publisher

SubjectKind = Literal["account", "call", "run", "agent", "publisher", "plan", "purchase", "eval", "job"]


class NamedSubject(NamedTuple):
    """A thing that exists: its kind, its id, and of a call the account. The id of an agent is `publisher/agent`."""

    kind: SubjectKind
    id: str
    account_id: str | None = None


def named_subjects(entries: Sequence[AuditLog]) -> dict[str, NamedSubject]:
    """What exists of the entries' subjects, by subject, and of who acted, by id. Three statements at most; every part is a lookup
    by a unique key."""
    texts = {text for entry in entries for text in (entry.subject, entry.actor_id) if text}
    found: dict[str, NamedSubject] = {}
    if not texts:
        return found
    for kind, subject, id, account_id in db.session.execute(
        union_all(*_lookups(texts, _publishers(entries)))
    ):
        found.setdefault(subject, NamedSubject(kind, id, account_id))
    for id in existing_jobs(entry.subject for entry in entries if entry.action.startswith("job.")):
        found[id] = NamedSubject("job", id)
    agents = {text: parts for text in texts if (parts := _agent(text))}
    if agents:
        named = tuple_(Agent.publisher_id, Agent.id).in_(list(agents.values()))
        existing = {
            tuple(row) for row in db.session.execute(select(Agent.publisher_id, Agent.id).where(named))
        }
        for text, parts in agents.items():
            if parts in existing:
                found.setdefault(text, NamedSubject("agent", "/".join(parts)))
    return found


def _lookups(texts: Collection[str], publishers: Collection[str]) -> list[Select[Any]]:
    def lookup(kind: SubjectKind, column: Any, id: Any, account: Any = None) -> Select[Any]:
        found = select(
            literal(kind).label("kind"), column, id.label("id"), null() if account is None else account
        )
        return found.where(column.in_(publishers if kind == "publisher" else texts))

    return [
        lookup("account", User.id, User.id),
        lookup("account", User.email, User.id),
        lookup("account", Org.id, Org.id),
        lookup("run", AgentRun.id, AgentRun.id),
        lookup("call", GatewayCall.request_id, GatewayCall.request_id, GatewayCall.account_id),
        lookup("call", CreditHold.request_id, CreditHold.request_id, CreditHold.account_id),
        lookup("plan", Plan.id, Plan.id),
        lookup("purchase", Purchase.id, Purchase.id),
        lookup("eval", GitEvalResults.id, GitEvalResults.id),
        lookup("publisher", Publisher.id, Publisher.id),
    ]


def _publishers(entries: Sequence[AuditLog]) -> set[str]:
    """Subjects that are names of publishers. Other entries may have the same text, such as a team's name."""
    return {entry.subject for entry in entries if entry.action.startswith(("store.", "publisher."))}


def _agent(text: str) -> tuple[str, str] | None:
    """The parts of `publisher/agent`, with or without a version."""
    publisher, slash, agent = text.partition("@")[0].partition("/")
    return (publisher, agent) if slash and publisher and agent and "/" not in agent else None
