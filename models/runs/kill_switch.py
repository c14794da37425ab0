"""Stop all agents of an account: running streams end, holds are freed, new calls are refused until somebody resumes.

Workers end their calls when they hear of the commit (`models/gateway/stopped_accounts.py`); what was produced is settled.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select, update

from models.accounts.users import User
from models.core.db import db
from models.core.db import now as utc_now
from models.gateway import GatewayCall
from models.ledger import Account, AccountStop, CreditHold, begin_stop, end_stop, run_budgets
from models.runs.run import AgentRun


def stop_account(account: Account, by: User) -> tuple[AccountStop, bool]:
    """Stop all calls and running agent runs of an account, from the commit on; the second value is False if it was stopped
    already. Takes the account's lock."""
    stop, new = begin_stop(account, by)
    if new:
        moment = utc_now()
        running = (
            update(AgentRun)
            .where(AgentRun.account_id == account.id, AgentRun.status == "running")
            .values(
                status="cancelled", completed_at=moment, error_message=f"Stopped by {stop.stopped_by_name}."
            )
            .returning(AgentRun.id, AgentRun.agent_id, AgentRun.user_id, AgentRun.envelope_run_id)
        )
        cancelled = db.session.execute(running).all()
        for run in cancelled:
            if run.envelope_run_id == run.id:
                run_budgets.close_run_budget(run.id, moment)
        stop.runs = [{"id": run.id, "agent_id": run.agent_id, "user_id": run.user_id} for run in cancelled]
    return stop, new


def resume_account(account: Account, by: User) -> AccountStop | None:
    """Serve the account's calls again from the commit on. Cancelled runs stay cancelled. None if it was not stopped."""
    return end_stop(account, by)


@dataclass(frozen=True, slots=True)
class StoppedGroup:
    """The stopped calls of one member, agent or run."""

    name: str
    calls: int
    held: int
    """Credits that they held at the stop."""
    settled: int
    """Credits charged for what they had produced."""


@dataclass(frozen=True, slots=True)
class StopReport:
    """What a stop ended, as known now. Credits are settled within a second, except of answers that are not read as a stream."""

    stop: AccountStop
    calls: int
    live: int
    """Calls that have not ended yet."""
    freed: int
    """Credits that were held and are free again."""
    settled: int
    members: list[StoppedGroup]
    agents: list[StoppedGroup]
    runs: list[StoppedGroup]


def stop_report(stop: AccountStop) -> StopReport:
    """What the stop has ended so far: calls by member, agent and run, credits settled, holds freed."""
    ids = [call["request_id"] for call in stop.calls]
    holds = select(CreditHold.request_id).where(CreditHold.request_id.in_(ids), CreditHold.state == "live")
    live = set(db.session.scalars(holds))
    charged = select(GatewayCall.request_id, GatewayCall.credits).where(
        GatewayCall.request_id.in_(ids), GatewayCall.state == "settled"
    )
    settled = {row.request_id: row.credits for row in db.session.execute(charged)}
    members = select(User.id, User.display_name.label("name")).where(
        User.id.in_({call["user_id"] for call in stop.calls})
    )
    names = {row.id: row.name for row in db.session.execute(members)}

    def grouped(name: Callable[[dict[str, Any]], str]) -> list[StoppedGroup]:
        calls, held, spent = Counter[str](), Counter[str](), Counter[str]()
        for call in stop.calls:
            key = name(call)
            calls[key] += 1
            held[key] += call["credits"]
            spent[key] += settled.get(call["request_id"], 0)
        return [StoppedGroup(key, count, held[key], spent[key]) for key, count in calls.most_common()]

    return StopReport(
        stop=stop,
        calls=len(ids),
        live=len(live),
        freed=sum(call["credits"] for call in stop.calls if call["request_id"] not in live),
        settled=sum(settled.values()),
        members=grouped(lambda call: names.get(call["user_id"], "a former member")),
        agents=grouped(lambda call: call["agent_id"] or "no agent"),
        runs=grouped(lambda call: call["run_id"] or "no run"),
    )
