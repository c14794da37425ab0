"""Runs of the made-up agents, played at past times: planned first, then settled by the ledger's own verbs."""

import random
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal

from sqlalchemy import insert, update

from models import ledger
from models.core.db import db
from models.core.pool import Pool
from models.core.settings import Settings
from models.demo.demo_agents import DemoAgent, by_name
from models.runs import AgentRun, AgentStep

# Dollars per million tokens: input, cache read, output. Fixed, so that the demo is the same in every release.
PRICES = {
    "stoa/demo": ("3", "0.30", "15"),
    "anthropic/claude-sonnet-4.5": ("3", "0.30", "15"),
    "openai/gpt-5-mini": ("0.25", "0.025", "2"),
    "google/gemini-2.5-flash": ("0.30", "0.075", "2.50"),
    "google/gemini-2.5-pro": ("1.25", "0.31", "10"),
}
NO_ANSWER_MS = 60_000


@dataclass
class PlannedCall:
    """One call of a run; `failed` when the provider never answered. `credits` once it is settled."""

    message_id: str
    start: datetime
    end: datetime
    read: int = 0
    cached: int = 0
    written: int = 0
    ttft_ms: int = 0
    failed: bool = False
    credits: int = 0


@dataclass
class PlannedStep:
    """A call, the runs it spawned, and when the step ended."""

    call: PlannedCall
    children: list["PlannedRun"]
    end: datetime


@dataclass
class PlannedRun:
    """A run as it went."""

    id: str
    user_id: str
    agent: DemoAgent
    version: str
    model: str
    start: datetime
    ancestors: list[str]
    steps: list[PlannedStep] = field(default_factory=list)
    end: datetime | None = None
    status: str = "completed"
    unanswered: PlannedCall | None = None

    @property
    def calls(self) -> list[PlannedCall]:
        """Its own calls, in order."""
        own = [step.call for step in self.steps]
        return [*own, self.unanswered] if self.unanswered else own

    @property
    def direct(self) -> int:
        """What its own calls were charged, in credits."""
        return sum(step.call.credits for step in self.steps)

    @property
    def total(self) -> int:
        """What it and all below it were charged, in credits."""
        return self.direct + sum(child.total for step in self.steps for child in step.children)

    def all(self) -> Iterable["PlannedRun"]:
        """It and all below it."""
        yield self
        for step in self.steps:
            for child in step.children:
                yield from child.all()


class RunPlanner:
    """Draws runs. The same drawing for the same seed and moment.

    `brief`: what a run would have read and written in several calls it does in one, and fewer runs spawn others.
    """

    def __init__(self, seed: int, now: datetime, *, brief: bool = False) -> None:
        self.draw = random.Random(seed)  # noqa: S311 (a drawing, no secret)
        self.now = now
        self.brief = brief

    def run(
        self, user_id: str, name: str, start: datetime, ancestors: Sequence[str] = ()
    ) -> PlannedRun | None:
        """A run of the version that most used then, with what it spawns. None when there was no version yet."""
        agent = by_name()[name]
        age = self.now - start
        # not everybody follows at once
        release = (agent.at(age + timedelta(days=9)) if self.draw.random() < 0.2 else None) or agent.at(age)
        if release is None:
            return None
        model = str(release.definition["model"])
        run = PlannedRun(self.uuid(), user_id, agent, release.version, model, start, list(ancestors))
        clock, calls = start, self.draw.randint(*agent.calls)
        for number in range(1 if self.brief else calls):
            begun = clock + timedelta(milliseconds=self.draw.randint(60, 400))
            call = self.call(agent, begun, calls if self.brief else 1)
            clock, children = call.end, []
            for name in release.definition.get("spawnableAgents", ()) if number == 0 else ():
                if self.draw.random() < (0.35 if self.brief or ancestors else 1):
                    child = self.run(user_id, name, clock + timedelta(milliseconds=40), [*ancestors, run.id])
                    if child and child.end:
                        children.append(child)
                        clock = child.end
            clock += timedelta(milliseconds=self.draw.randint(40, 900))
            run.steps.append(PlannedStep(call, children, clock))
        chance = self.draw.random()
        if not ancestors and chance < 0.05:
            end = clock + timedelta(milliseconds=NO_ANSWER_MS)
            run.status, run.unanswered, clock = (
                "failed",
                PlannedCall(self.message(), clock, end, failed=True),
                end,
            )
        elif not ancestors and chance < 0.07:
            run.status = "cancelled"
        run.end = clock
        return run

    def call(self, agent: DemoAgent, start: datetime, times: int) -> PlannedCall:
        """An answered call that is `times` as long as the agent's usual ones."""
        read, written = times * self.draw.randint(*agent.reads), times * self.draw.randint(*agent.writes)
        cached = int(read * self.draw.choice((0, 0, 0.5, 0.7, 0.85)))
        ttft = self.draw.randint(280, 1_400)
        end = start + timedelta(milliseconds=ttft + written * self.draw.randint(6, 14))
        return PlannedCall(self.message(), start, end, read, cached, written, ttft)

    def uuid(self) -> str:
        """A drawn UUID."""
        return str(uuid.UUID(int=self.draw.getrandbits(128), version=4))

    def message(self) -> str:
        """A drawn message id."""
        return f"demo-{uuid.UUID(int=self.draw.getrandbits(128), version=4).hex}"


class RunWriter:
    """Writes planned runs: the runs, their calls through admission and settlement, then steps and endings.

    `keys` are the hashes of the keys that the calls are made with, by user id.
    """

    def __init__(
        self,
        pool: Pool,
        settings: Settings,
        commit: Callable[[], None],
        keys: dict[str, str],
    ) -> None:
        self.pool = pool
        self.settings = settings
        self.keep = commit
        self.keys = keys
        self.calls = 0

    def play(self, roots: Sequence[PlannedRun], *, together: bool) -> None:
        """Write these runs and all below them. `together` settles all their calls as if they ended at one moment,
        the last one's: far faster, and as exact in what they cost."""
        runs = [run for root in roots for run in root.all()]
        if not runs:
            return
        db.session.execute(
            insert(AgentRun),
            [
                {
                    "id": run.id,
                    "user_id": run.user_id,
                    "agent_id": f"{run.agent.name}@{run.version}",
                    "ancestor_run_ids": run.ancestors,
                    "created_at": run.start,
                }
                for run in runs
            ],
        )
        self.keep()
        pairs = sorted(
            ((run, call) for run in runs for call in run.calls if not call.failed),
            key=lambda pair: pair[1].end,
        )
        for group in [pairs] if together else [[pair] for pair in pairs]:
            self._settle(group)
        for run in runs:
            if run.unanswered:
                self._fail(run, run.unanswered)
        self._end(runs)
        self.keep()

    def _settle(self, pairs: Sequence[tuple[PlannedRun, PlannedCall]]) -> None:
        admissions = self._admit(pairs)
        facts = [
            (admission, self._settlement(run, call))
            for admission, (run, call) in zip(admissions, pairs, strict=True)
        ]
        settled = ledger.settle_many(self.pool, facts, now=max(call.end for _, call in pairs))
        for (_, call), bill in zip(pairs, settled, strict=True):
            call.credits = bill.credits
        self.calls += len(settled)

    def _admit(self, pairs: Sequence[tuple[PlannedRun, PlannedCall]]) -> list[ledger.Admission]:
        claims = [
            ledger.AdmissionRequest(
                token_hash=self.keys[run.user_id],
                request_id=call.message_id,
                hold=10,
                run_id=run.id,
                require_run=True,
                door="codebuff",
                model=run.model,
            )
            for run, call in pairs
        ]
        admissions = ledger.admit_many(
            self.pool,
            claims,
            worker="demo",
            free_credits=self.settings.stoa_free_credits,
            now=min(call.start for _, call in pairs),
        )
        for admission in admissions:
            if admission.outcome != "admitted":
                raise RuntimeError(f"the demo ran out of its own credits: {admission.outcome}")
        return admissions

    def _settlement(self, run: PlannedRun, call: PlannedCall) -> ledger.Settlement:
        price = dict(zip(("input", "cache_read", "output"), PRICES[run.model], strict=True))
        fresh = call.read - call.cached
        cost = (
            fresh * Decimal(price["input"])
            + call.cached * Decimal(price["cache_read"])
            + call.written * Decimal(price["output"])
        )
        return ledger.Settlement(
            provider="demo",
            requested_model=run.model,
            model=run.model,
            usage_source="provider",
            uncached_input_tokens=fresh,
            cache_read_tokens=call.cached,
            output_tokens=call.written,
            cost=cost / 1_000_000,
            margin=self.settings.stoa_margin,
            latency_ms=round((call.end - call.start).total_seconds() * 1000),
            ttft_ms=call.ttft_ms,
            started_at=call.start,
            stream=True,
            message_id=call.message_id,
            price=price,
            request=[
                {"role": "system", "content": f"You are {run.agent.name}@{run.version}. This is demo data."},
                {"role": "user", "content": run.agent.asks},
            ],
            response=run.agent.says,
        )

    def _fail(self, run: PlannedRun, call: PlannedCall) -> None:
        (admission,) = self._admit([(run, call)])
        ledger.fail(
            self.pool,
            admission,
            ledger.CallFailure(
                requested_model=run.model,
                provider="demo",
                started_at=call.start,
                latency_ms=NO_ANSWER_MS,
                error="The provider did not answer within 60 seconds.",
                http_status=504,
                stream=True,
            ),
            now=call.end,
        )

    def _end(self, runs: Sequence[PlannedRun]) -> None:
        db.session.execute(
            insert(AgentStep),
            [
                {
                    "id": str(uuid.uuid5(uuid.UUID(run.id), str(number))),
                    "agent_run_id": run.id,
                    "step_number": number,
                    "credits": Decimal(step.call.credits),
                    "child_run_ids": [child.id for child in step.children],
                    "message_id": step.call.message_id,
                    "created_at": step.call.start,
                    "completed_at": step.end,
                }
                for run in runs
                for number, step in enumerate(run.steps, 1)
            ],
        )
        db.session.execute(
            update(AgentRun),
            [
                {
                    "id": run.id,
                    "status": run.status,
                    "error_message": "The provider did not answer in time." if run.unanswered else None,
                    "completed_at": run.end,
                    "total_steps": len(run.steps),
                    "direct_credits": Decimal(run.direct),
                    "total_credits": Decimal(run.total),
                }
                for run in runs
            ],
        )
