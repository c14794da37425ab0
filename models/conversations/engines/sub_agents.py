"""Agents that an agent of the store spawns during a turn: each a run below the turn's, on the same files and the same hold, with caps."""

import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from typing import Any

import orjson
from sqlalchemy import func, select

from models.accounts.sessions import Session
from models.assistants.tool_requests import ToolFailed
from models.conversations.conversation_engine import EnginePlan, EngineTool
from models.conversations.conversation_preamble import cut
from models.conversations.engine_session import EngineSession
from models.conversations.engines.store_agent import SPAWN, StoreAgent, store_agent
from models.conversations.workplace_tools import ASK, WorkplaceToolbox
from models.core.db import db
from models.core.errors import DomainError
from models.gateway.in_flight import InFlightCall
from models.gateway.streamed_answer import AnswerStopped, StreamedAnswer
from models.ledger.payers import PayerHint
from models.runs import AgentRun, recording
from models.runs.recording import Ending, StepReport
from models.store.publishing.run_defaults import default_run_budget
from models.threads import turn_budgets
from models.turns.turn_call import TurnCallFailed, open_call

AT_ONCE = 4
"""Agents of one turn that work at the same time."""
MAX_DEPTH = 3
"""Generations below the turn's own agent."""
MAX_ROUNDS = 20
MAX_RESULT = 16_000
"""Characters of an agent's answer that its caller gets."""
LISTED = 40
"""Agents that are named in the description of the tool."""
SECONDS = 1_800.0
"""How long one call of the tool may take."""
POLL_SECONDS = 0.25
STOPPED = "The turn was stopped."


class AgentStopped(Exception):
    """The turn is to end."""


class UnknownSubAgent(DomainError):
    """An agent that may not be spawned was called."""

    status = 422
    code = "invalid"


@dataclass
class SubRun:
    """A spawned agent while it works."""

    agent: StoreAgent
    id: str
    path: Sequence[str]
    """The runs above it and itself, root first."""
    steps: list[StepReport] = field(default_factory=list)

    @property
    def credits(self) -> int:
        """What its own calls have cost."""
        return int(sum(each.credits for each in self.steps))


class SubAgents:
    """The agents that one turn spawns. Safe for several threads."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._spawned: int | None = None
        self._lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(AT_ONCE)
        self._calls: dict[str, InFlightCall] = {}

    def tool(self, agent: StoreAgent, depth: int, above: SubRun | None = None) -> list[EngineTool]:
        """The tool with which an agent spawns others; none if it may not."""
        if not agent.spawnable or depth >= MAX_DEPTH or not self._most:
            return []

        def run(session: EngineSession, sent: Mapping[str, Any]) -> str:
            with _watched(session, self._stop_all):
                return self._spawn(session, agent, sent, depth, above)

        return [EngineTool(_definition(agent.spawnable), run, SECONDS)]

    # -- one call of the tool --------------------------------------------------------------------------------

    def _spawn(
        self,
        session: EngineSession,
        by: StoreAgent,
        sent: Mapping[str, Any],
        depth: int,
        above: SubRun | None,
    ) -> str:
        wanted = sent.get("agents")
        if not isinstance(wanted, list) or not wanted:
            raise ToolFailed("'agents' must be a list of {agent_type, prompt, params}.")
        room = self._take(session, len(wanted))
        # a nested call gives its slot back while it waits, or the slots could wait for one another
        if above is not None:
            self._slots.release()
        try:
            with ThreadPoolExecutor(AT_ONCE, "stoa-sub-agent") as pool:
                work = [pool.submit(self._one, session, by, each, depth, above) for each in wanted[:room]]
                results = [each.result() for each in work]
        finally:
            if above is not None:
                self._slots.acquire()
        if session.stopped:
            raise ToolFailed(STOPPED)
        if len(wanted) > room:
            left = len(wanted) - room
            results.append(
                {"error": f"{left:,} more were not run: a turn spawns at most {self._most} agents."}
            )
        return orjson.dumps(results).decode()

    def _take(self, session: EngineSession, count: int) -> int:
        """Count agents of the turn; returns how many of `count` may run."""
        with self._lock:
            if self._spawned is None:
                # what a worker before this one has spawned
                with session.handle.context():
                    below = select(func.count()).where(
                        AgentRun.root_run_id == session.handle.run_id, AgentRun.id != session.handle.run_id
                    )
                    self._spawned = db.session.scalar(below) or 0
            room = max(min(count, self._most - self._spawned), 0)
            self._spawned += room
            return room

    def _one(
        self, session: EngineSession, by: StoreAgent, wanted: Any, depth: int, above: SubRun | None
    ) -> dict[str, Any]:
        """Run one agent. Never raises but LeaseLost."""
        name = wanted.get("agent_type") if isinstance(wanted, dict) else None
        with self._slots:
            try:
                if session.stopped:
                    raise AgentStopped
                agent = _chosen(session, by, name)
                text = self._answer(session, agent, by, wanted, depth, above)
            except AgentStopped:
                return {"agent": str(name)[:200], "error": STOPPED}
            except DomainError as error:
                return {"agent": str(name)[:200], "error": error.message}
        return {"agent": agent.id, "answer": cut(text, MAX_RESULT)}

    def _answer(
        self,
        session: EngineSession,
        agent: StoreAgent,
        by: StoreAgent,
        wanted: Mapping[str, Any],
        depth: int,
        above: SubRun | None,
    ) -> str:
        run = _start(session, agent, above)
        status, problem = "failed", "The server failed."
        try:
            toolbox = _toolbox(session, agent, self.tool(agent, depth + 1, run))
            messages = _messages(session, agent, by, wanted)
            text = self._rounds(session, run, toolbox, messages)
            status, problem = "completed", ""
            return text
        except AgentStopped:
            status, problem = "cancelled", STOPPED
            raise
        except DomainError as error:
            problem = error.message
            raise
        finally:
            _finish(session, run, status, problem)  # type: ignore[arg-type]

    # -- rounds ----------------------------------------------------------------------------------------------

    def _rounds(
        self, session: EngineSession, run: SubRun, toolbox: WorkplaceToolbox, messages: list[dict[str, Any]]
    ) -> str:
        """Calls of the model and its tools, until it answers without one."""
        definitions = toolbox.definitions()
        for number in range(1, MAX_ROUNDS + 1):
            body = {**run.agent.params, "model": run.agent.model or session.model, "messages": messages}
            if definitions:
                body["tools"] = definitions
                body |= {"tool_choice": "none"} if number == MAX_ROUNDS else {}
            message = self._call(session, run, body, number)
            messages.append(message)
            calls = message.get("tool_calls")
            if not calls:
                return str(message.get("content") or "")
            for call in calls:
                if session.stopped:
                    raise AgentStopped
                messages.append(
                    {"role": "tool", "tool_call_id": call["id"], "content": _result(session, toolbox, call)}
                )
        return str(messages[-1].get("content") or "")

    def _call(
        self, session: EngineSession, run: SubRun, body: Mapping[str, Any], number: int
    ) -> dict[str, Any]:
        answer = self._open(session, run, body)
        try:
            # how it broke off is said by `answer.error`
            with suppress(ConnectionResetError):
                for _ in answer:
                    if session.stopped:
                        answer.stop(AnswerStopped(STOPPED))
        finally:
            answer.close()
        settled = answer.settled
        if settled is not None:
            run.steps.append(StepReport(number, Decimal(settled.credits), message_id=settled.message_id))
            session.spent(settled.credits)
        if session.stopped:
            raise AgentStopped
        if answer.error:
            raise TurnCallFailed(answer.error, status=502, code=answer.code or "upstream_error")
        return answer.message

    def _open(self, session: EngineSession, run: SubRun, body: Mapping[str, Any]) -> StreamedAnswer:
        """Make a call in the run. When its envelope leaves too little, more of the turn's budgets is reserved, once."""
        for again in (True, False):
            request_id = uuid.uuid4().hex
            try:
                return open_call(
                    session.handle,
                    dict(body),
                    request_id,
                    session.settings,
                    org_id=session.org_id,
                    run_id=run.id,
                    admitted=partial(self._admitted, session, request_id),
                )
            except TurnCallFailed as error:
                needed = turn_budgets.needed_by(error)
                if session.stopped:
                    raise AgentStopped from None
                if not again or needed is None or not session.reserve(needed):
                    raise
        raise AssertionError

    def _admitted(self, session: EngineSession, id: str, call: InFlightCall) -> None:
        with self._lock:
            # those that ended are of no use any more
            self._calls = {key: each for key, each in self._calls.items() if each.settled is None}
            self._calls[id] = call
        if session.stopped:
            call.stop(AnswerStopped(STOPPED))

    def _stop_all(self) -> None:
        with self._lock:
            calls = list(self._calls.values())
        for call in calls:
            call.stop(AnswerStopped(STOPPED))


@contextmanager
def _watched(session: EngineSession, stop: Callable[[], None]) -> Iterator[None]:
    """While it is entered, a turn that is to end stops the model calls of its agents, also those that are silent."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(POLL_SECONDS):
            if session.stopped:
                stop()

    threading.Thread(target=watch, name="stoa-sub-agents", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _definition(spawnable: Sequence[str]) -> dict[str, Any]:
    named = "\n".join(f"- {reference}: an agent of the store" for reference in spawnable[:LISTED])
    agent = {
        "type": "object",
        "properties": {
            "agent_type": {"type": "string", "description": "One of those listed above"},
            "prompt": {"type": "string", "description": "What it is to do, with all that it has to know"},
            "params": {"type": "object", "description": "Its parameters, if it has any"},
        },
        "required": ["agent_type", "prompt"],
    }
    return {
        "type": "function",
        "function": {
            "name": SPAWN,
            "description": f"Let other agents work on the same files, at the same time, and get their answers:\n{named}",
            "parameters": {
                "type": "object",
                "properties": {"agents": {"type": "array", "items": agent}},
                "required": ["agents"],
            },
        },
    }


def _chosen(session: EngineSession, by: StoreAgent, name: Any) -> StoreAgent:
    """The agent that is meant, of those that may be spawned. Raises DomainError."""
    text = name if isinstance(name, str) else ""
    for reference in by.spawnable:
        full = reference.partition("@")[0]
        if text and text in (reference, full, full.rpartition("/")[2]):
            with session.handle.context():
                return store_agent(
                    reference if "/" in reference else f"{by.id.partition('/')[0]}/{reference}"
                )
    raise UnknownSubAgent(
        f"{by.id} spawns no agent '{text[:100]}'. It may spawn: {', '.join(by.spawnable[:LISTED])}."
    )


def _toolbox(session: EngineSession, agent: StoreAgent, more: Sequence[EngineTool]) -> WorkplaceToolbox:
    plan = EnginePlan(tools=agent.tools - {ASK}, more_tools=more)
    return WorkplaceToolbox(session.handle, plan, session.workplace.level, lambda: session)


def _messages(
    session: EngineSession, agent: StoreAgent, by: StoreAgent, wanted: Mapping[str, Any]
) -> list[dict[str, Any]]:
    own = by.instructions if agent.with_parents_system else agent.instructions
    system = "\n\n".join(part for part in (own, session.system) if part)
    history = [dict(each) for each in session.history] if agent.with_history else []
    prompt = str(wanted.get("prompt") or "Do your work.")
    if isinstance(params := wanted.get("params"), dict) and params:
        prompt += f"\n\nParameters: {orjson.dumps(params).decode()}"
    return [{"role": "system", "content": system}, *history, {"role": "user", "content": prompt}]


def _result(session: EngineSession, toolbox: WorkplaceToolbox, call: Mapping[str, Any]) -> str:
    try:
        with session.handle.context():
            text = toolbox.call(call["function"]["name"], call["function"]["arguments"])
    except ToolFailed as failed:
        text = failed.message
    except DomainError as error:
        text = f"Error: {error.message}"
    return text.replace("\0", "").encode("utf-8", "replace").decode()[:64_000] or " "


def _start(session: EngineSession, agent: StoreAgent, above: SubRun | None) -> SubRun:
    """Start the run of an agent, below the one that spawned it. Raises as `recording.start` does."""
    handle = session.handle
    ancestors = list(above.path) if above else [handle.run_id or ""]
    with handle.transaction():
        key = db.session.get(Session, handle.key.id)
        id = recording.start(
            handle.user_id,
            agent.id,
            ancestors,
            session.settings,
            org_id=key.org_id if key else None,
            team_id=key.team_id if key else None,
            hint=PayerHint(session.org_id or None),
            key_id=handle.key.id,
            default_budget=default_run_budget(agent.id),
        )
    return SubRun(agent, id, [*ancestors, id])


def _finish(session: EngineSession, run: SubRun, status: Ending, problem: str) -> None:
    handle = session.handle
    with handle.transaction():
        key = db.session.get(Session, handle.key.id)
        recording.finish(
            handle.user_id,
            run.id,
            status=status,
            total_steps=len(run.steps),
            direct_credits=Decimal(run.credits),
            total_credits=Decimal(run.credits),
            settings=session.settings,
            org_id=key.org_id if key else None,
            error_message=problem or None,
            steps=run.steps,
        )
