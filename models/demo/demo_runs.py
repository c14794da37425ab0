"""Demo runs with past timestamps: planned first, then written through admission and settlement."""

import random
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal

from sqlalchemy import insert, update

from models import ledger
from models.accounts.key_format import PresentedKey
from models.accounts.scopes import CHAT
from models.core.db import db
from models.core.pool import Pool
from models.core.settings import Settings
from models.demo.demo_agents import DemoAgent, by_name
from models.runs import AgentRun, AgentStep

# Dollars per million tokens: input, cache read, output. Fixed, so that the demo does not change with price lists.
PRICES = {
    "stoa/demo": ("3", "0.30", "15"),
    "anthropic/claude-sonnet-4.5": ("3", "0.30", "15"),
    "openai/gpt-5-mini": ("0.25", "0.025", "2"),
    "google/gemini-2.5-flash": ("0.30", "0.075", "2.50"),
    "google/gemini-2.5-pro": ("1.25", "0.31", "10"),
}
TIMEOUT_MS = 60_000


@dataclass
class PlannedCall:
    """A call of a run; `failed` if the provider timed out. `credits` is set on settlement."""

    message_id: str
    start: datetime
    end: datetime
    input_tokens: int = 0
    cached: int = 0
    output_tokens: int = 0
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
    """A complete run."""

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
    timed_out: PlannedCall | None = None

    @property
    def calls(self) -> list[PlannedCall]:
        """Its own calls in order, excluding child runs."""
        own = [step.call for step in self.steps]
        return [*own, self.timed_out] if self.timed_out else own

    @property
    def direct(self) -> int:
        """Credits of its own calls."""
        return sum(step.call.credits for step in self.steps)

    @property
    def total(self) -> int:
        """Credits of its own calls and all descendants."""
        return self.direct + sum(child.total for step in self.steps for child in step.children)

    def all(self) -> Iterable["PlannedRun"]:
        """The run and its descendants."""
        yield self
        for step in self.steps:
            for child in step.children:
                yield from child.all()


class RunPlanner:
    """Generates random runs, deterministic for `seed` and `now`.

    `brief` merges the calls of a run into one and spawns fewer child runs.
    """

    def __init__(self, seed: int, now: datetime, *, brief: bool = False) -> None:
        self.rng = random.Random(seed)  # noqa: S311 (not a secret)
        self.now = now
        self.brief = brief

    def run(
        self, user_id: str, name: str, start: datetime, ancestors: Sequence[str] = ()
    ) -> PlannedRun | None:
        """Plan a run of the current version at `start`, with its child runs. None if there was no version yet."""
        agent = by_name()[name]
        age = self.now - start
        # some users still run the previous version
        release = (agent.at(age + timedelta(days=9)) if self.rng.random() < 0.2 else None) or agent.at(age)
        if release is None:
            return None
        model = str(release.definition["model"])
        run = PlannedRun(self.uuid(), user_id, agent, release.version, model, start, list(ancestors))
        clock, calls = start, self.rng.randint(*agent.calls)
        for number in range(1 if self.brief else calls):
            begun = clock + timedelta(milliseconds=self.rng.randint(60, 400))
            call = self.call(agent, begun, calls if self.brief else 1)
            clock, children = call.end, []
            for name in release.definition.get("spawnableAgents", ()) if number == 0 else ():
                if self.rng.random() < (0.35 if self.brief or ancestors else 1):
                    child = self.run(user_id, name, clock + timedelta(milliseconds=40), [*ancestors, run.id])
                    if child and child.end:
                        children.append(child)
                        clock = child.end
            clock += timedelta(milliseconds=self.rng.randint(40, 900))
            run.steps.append(PlannedStep(call, children, clock))
        chance = self.rng.random()
        if not ancestors and chance < 0.05:
            end = clock + timedelta(milliseconds=TIMEOUT_MS)
            run.status, run.timed_out, clock = (
                "failed",
                PlannedCall(self.message(), clock, end, failed=True),
                end,
            )
        elif not ancestors and chance < 0.07:
            run.status = "cancelled"
        run.end = clock
        return run

    def call(self, agent: DemoAgent, start: datetime, times: int) -> PlannedCall:
        """Plan a successful call with `times` the agent's usual number of tokens."""
        input_tokens = times * self.rng.randint(*agent.input_tokens)
        output_tokens = times * self.rng.randint(*agent.output_tokens)
        cached = int(input_tokens * self.rng.choice((0, 0, 0.5, 0.7, 0.85)))
        ttft = self.rng.randint(280, 1_400)
        end = start + timedelta(milliseconds=ttft + output_tokens * self.rng.randint(6, 14))
        return PlannedCall(self.message(), start, end, input_tokens, cached, output_tokens, ttft)

    def uuid(self) -> str:
        """A random UUID."""
        return str(uuid.UUID(int=self.rng.getrandbits(128), version=4))

    def message(self) -> str:
        """A random message id."""
        return f"demo-{uuid.UUID(int=self.rng.getrandbits(128), version=4).hex}"


class RunWriter:
    """Writes planned runs: the runs, their calls through admission and settlement, then steps and final states.

    `keys` maps user ids to their API keys, which are of organisation `org_id` or their own.
    """

    def __init__(
        self,
        pool: Pool,
        settings: Settings,
        commit: Callable[[], None],
        keys: dict[str, PresentedKey],
        org_id: str | None = None,
    ) -> None:
        self.pool = pool
        self.settings = settings
        self.checkpoint = commit
        self.keys = keys
        self.org_id = org_id
        self.calls = 0

    def write(self, roots: Sequence[PlannedRun], *, batch: bool) -> None:
        """Write runs and their descendants. `batch` settles all calls at once, at the end of the last: much faster, with the
        same credits."""
        runs = [run for root in roots for run in root.all()]
        if not runs:
            return
        db.session.execute(
            insert(AgentRun),
            [
                {
                    "id": run.id,
                    "user_id": run.user_id,
                    "org_id": self.org_id,
                    "agent_id": f"{run.agent.name}@{run.version}",
                    "ancestor_run_ids": run.ancestors,
                    "created_at": run.start,
                }
                for run in runs
            ],
        )
        self.checkpoint()
        pairs = sorted(
            ((run, call) for run in runs for call in run.calls if not call.failed),
            key=lambda pair: pair[1].end,
        )
        for group in [pairs] if batch else [[pair] for pair in pairs]:
            self._settle(group)
        for run in runs:
            if run.timed_out:
                self._fail(run, run.timed_out)
        self._end(runs)
        self.checkpoint()

    def _settle(self, pairs: Sequence[tuple[PlannedRun, PlannedCall]]) -> None:
        admissions = self._admit(pairs)
        settlements = [
            (admission, self._settlement(run, call))
            for admission, (run, call) in zip(admissions, pairs, strict=True)
        ]
        settled = ledger.settle_many(self.pool, settlements, now=max(call.end for _, call in pairs))
        for (_, call), bill in zip(pairs, settled, strict=True):
            call.credits = bill.credits
        self.calls += len(settled)

    def _admit(self, pairs: Sequence[tuple[PlannedRun, PlannedCall]]) -> list[ledger.Admission]:
        requests = [
            ledger.AdmissionRequest(
                token_hash=self.keys[run.user_id].id,
                secret=self.keys[run.user_id].secret,
                scope=CHAT,
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
            requests,
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
        uncached = call.input_tokens - call.cached
        cost = (
            uncached * Decimal(price["input"])
            + call.cached * Decimal(price["cache_read"])
            + call.output_tokens * Decimal(price["output"])
        )
        return ledger.Settlement(
            provider="demo",
            requested_model=run.model,
            model=run.model,
            usage_source="provider",
            uncached_input_tokens=uncached,
            cache_read_tokens=call.cached,
            output_tokens=call.output_tokens,
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
                {"role": "user", "content": run.agent.prompt},
            ],
            response=run.agent.answer,
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
                latency_ms=TIMEOUT_MS,
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
                    "error_message": "The provider did not answer in time." if run.timed_out else None,
                    "completed_at": run.end,
                    "total_steps": len(run.steps),
                    "direct_credits": Decimal(run.direct),
                    "total_credits": Decimal(run.total),
                }
                for run in runs
            ],
        )
