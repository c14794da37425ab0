"""A month of made-up runs of one made-up user, so that a new server has pages to look at. Marked, and removable.

Everything goes through the verbs that real calls use, at past times: grants, holds, settlements, runs and steps. So the
books of the demo prove like any others.
"""

import hashlib
import random
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from sqlalchemy import delete, select
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from models import billing
from models.accounts import Session as Key
from models.accounts import User
from models.db import now as utc_now
from models.runs import AgentRun, AgentStep
from models.settings import Settings

USER_ID = "demo-user"
EMAIL = "demo@stoa.invalid"
DAYS = 30

# Dollars per million tokens: input, cache read, output. Fixed, so that the demo is the same in every release.
PRICES = {
    "stoa/demo": ("3", "0.30", "15"),
    "anthropic/claude-sonnet-4.5": ("3", "0.30", "15"),
    "openai/gpt-5-mini": ("0.25", "0.025", "2"),
    "google/gemini-2.5-flash": ("0.30", "0.075", "2.50"),
}


@dataclass(frozen=True)
class Part:
    """An agent of the demo: which model it calls, how often in a run, how much it reads and writes, whom it spawns."""

    agent_id: str
    model: str
    calls: tuple[int, int]
    reads: tuple[int, int]
    writes: tuple[int, int]
    spawns: tuple[str, ...] = ()
    says: str = ""


PARTS = {
    part.agent_id: part
    for part in (
        Part(
            "stoa/code-reviewer@2.4.1",
            "anthropic/claude-sonnet-4.5",
            (2, 4),
            (4_000, 22_000),
            (300, 1_800),
            ("stoa/file-picker@1.3.0",),
            "The change is sound. One thing: the hold is released before the stream ends; move the release into the"
            " finally block.",
        ),
        Part(
            "stoa/release-notes@0.9.2",
            "openai/gpt-5-mini",
            (1, 3),
            (3_000, 30_000),
            (400, 1_500),
            ("stoa/file-picker@1.3.0", "stoa/summariser@1.1.4"),
            "Three changes are worth telling: exports stream, holds show their age, and the run page opens its calls.",
        ),
        Part(
            "stoa/test-writer@1.0.3",
            "stoa/demo",
            (2, 5),
            (2_000, 12_000),
            (500, 2_400),
            (),
            "Added a test for the case that failed: two settlements of one call at once charge once.",
        ),
        Part(
            "stoa/file-picker@1.3.0",
            "google/gemini-2.5-flash",
            (1, 2),
            (1_500, 9_000),
            (60, 260),
            (),
            "ledger/holds.py, ledger/settle.py, tests/ledger/test_race.py",
        ),
        Part(
            "stoa/summariser@1.1.4",
            "openai/gpt-5-mini",
            (1, 1),
            (2_000, 8_000),
            (120, 400),
            (),
            "Forty commits, most of them about the ledger's error paths.",
        ),
    )
}
ROOTS = ("stoa/code-reviewer@2.4.1", "stoa/release-notes@0.9.2", "stoa/test-writer@1.0.3")
ASKS = {
    "stoa/code-reviewer@2.4.1": "Review the change on this branch.",
    "stoa/release-notes@0.9.2": "Write the notes of this week's release.",
    "stoa/test-writer@1.0.3": "Write the test that would have caught this.",
    "stoa/file-picker@1.3.0": "Which files matter for this?",
    "stoa/summariser@1.1.4": "Sum up these commits in a sentence.",
}


def exists(session: Session) -> bool:
    """Whether the demo user is there."""
    return session.get(User, USER_ID) is not None


def is_first_start(session: Session) -> bool:
    """Whether this server has no user at all yet."""
    return session.execute(select(User.id).limit(1)).first() is None


def seed(
    session: Session,
    engine: Engine,
    settings: Settings,
    *,
    commit: Callable[[], None],
    now: datetime | None = None,
) -> int:
    """Make the demo user with a month of runs that end at `now`. Returns how many calls were settled; 0 if it is there.

    Calls `commit`, the door's, as it goes: a settlement is a transaction of its own and must find what it is about.
    `engine` is a `billing.gateway_engine`.
    The same for the same day: drawn from a fixed seed.
    """
    if exists(session):
        return 0
    now = now or utc_now()
    began = (now - timedelta(days=DAYS)).replace(hour=8, minute=0, second=0, microsecond=0)
    session.add(
        User(
            id=USER_ID,
            email=EMAIL,
            email_verified=began,
            name="Delia Marsh",
            created_at=began,
            next_quota_reset=began + timedelta(days=31),
        )
    )
    session.flush()
    account = billing.Account(user_id=USER_ID)
    billing.signup_grant(session, USER_ID, settings.stoa_free_credits, now=began)
    billing.grant(
        session,
        account,
        3_000,
        "admin",
        operation_id="demo-grant",
        description="Demo credits",
        now=began + timedelta(minutes=5),
    )
    # A key nobody knows: the settlements name the key that was used.
    key = hashlib.sha256(uuid.uuid4().bytes).hexdigest()
    session.add(
        Key(
            session_token=key,
            user_id=USER_ID,
            type="pat",
            expires=now + timedelta(days=DAYS),
            created_at=began,
            name="Demo key",
            token_hint="cb-pat-…",  # noqa: S106  (a hint to show, of a key nobody has)
        )
    )
    commit()
    writer = _Writer(session, engine, settings, commit, key, now)
    for day in range(DAYS + 1):
        writer.day((began + timedelta(days=day)).date().toordinal())
    session.execute(delete(Key).where(Key.session_token == key))
    commit()
    return writer.calls


def remove(session: Session) -> bool:
    """Delete the demo user and all that is theirs, ledger entries included. False if there is none. Flushes."""
    if not exists(session):
        return False
    billing.erase_account(session, USER_ID)
    session.execute(delete(User).where(User.id == USER_ID))
    return True


class _Writer:
    """Plays runs at past times."""

    def __init__(
        self,
        session: Session,
        engine: Engine,
        settings: Settings,
        commit: Callable[[], None],
        key: str,
        now: datetime,
    ) -> None:
        self.session = session
        self.engine = engine
        self.settings = settings
        self.keep = commit
        self.key = key
        self.draw = random.Random(20261120)  # noqa: S311 (a drawing, no secret)
        self.now = now
        self.calls = 0

    def day(self, ordinal: int) -> None:
        """One day's runs: fewer at weekends, none after `now`."""
        date = datetime.fromordinal(ordinal).replace(tzinfo=self.now.tzinfo)
        runs = self.draw.randint(0, 1) if date.weekday() >= 5 else self.draw.randint(1, 4)
        starts = sorted(date + timedelta(minutes=self.draw.randint(8 * 60, 18 * 60)) for _ in range(runs))
        for start in starts:
            if start < self.now - timedelta(minutes=15):
                self.run(self.draw.choice(ROOTS), start, [])
                self.keep()

    def run(self, agent_id: str, start: datetime, ancestors: list[str]) -> tuple[str, datetime, int]:
        """One run and what it spawns. Returns its id, its end, and the credits of it and all below it."""
        part = PARTS[agent_id]
        run = AgentRun(
            id=str(self._uuid()),
            user_id=USER_ID,
            agent_id=agent_id,
            ancestor_run_ids=ancestors,
            created_at=start,
        )
        self.session.add(run)
        self.keep()
        clock, direct, total, steps = start, 0, 0, 0
        failed = not ancestors and self.draw.random() < 0.06
        for number in range(1, self.draw.randint(*part.calls) + 1):
            begun = clock + timedelta(milliseconds=self.draw.randint(60, 400))
            message_id, clock, credits = self.call(part, run.id, begun)
            children: list[str] = []
            if number == 1:
                for child in part.spawns:
                    child_id, clock, spent = self.run(
                        child, clock + timedelta(milliseconds=40), [*ancestors, run.id]
                    )
                    children.append(child_id)
                    total += spent
            clock += timedelta(milliseconds=self.draw.randint(40, 900))
            self.session.add(
                AgentStep(
                    id=str(self._uuid()),
                    agent_run_id=run.id,
                    step_number=number,
                    credits=Decimal(credits),
                    child_run_ids=children,
                    message_id=message_id,
                    created_at=begun,
                    completed_at=clock,
                )
            )
            direct, steps = direct + credits, number
        if failed:
            clock = self.failure(part, run.id, clock)
        run.status = "failed" if failed else "completed"
        run.error_message = "The provider did not answer in time." if failed else None
        run.completed_at = clock
        run.total_steps = steps
        run.direct_credits, run.total_credits = Decimal(direct), Decimal(direct + total)
        self.keep()
        return run.id, clock, direct + total

    def call(self, part: Part, run_id: str, start: datetime) -> tuple[str, datetime, int]:
        """One settled call. Returns the message's id, when it ended and what it was charged."""
        prompt = self.draw.randint(*part.reads)
        cached = int(prompt * self.draw.choice((0, 0, 0.5, 0.7, 0.85)))
        written = self.draw.randint(*part.writes)
        input_price, cache_price, output_price = (Decimal(price) for price in PRICES[part.model])
        cost = ((prompt - cached) * input_price + cached * cache_price + written * output_price) / 1_000_000
        ttft = self.draw.randint(280, 1_400)
        latency = ttft + written * self.draw.randint(6, 14)
        end = start + timedelta(milliseconds=latency)
        admission = self._admit(part, run_id, start, hold=10)
        settled = billing.settle(
            self.engine,
            admission,
            billing.Settlement(
                provider="demo",
                requested_model=part.model,
                model=part.model,
                usage_source="provider",
                uncached_input_tokens=prompt - cached,
                cache_read_tokens=cached,
                output_tokens=written,
                cost=cost,
                margin=self.settings.stoa_margin,
                latency_ms=latency,
                ttft_ms=ttft,
                started_at=start,
                stream=True,
                message_id=f"demo-{self._uuid().hex}",
                price={
                    "input": str(input_price),
                    "cache_read": str(cache_price),
                    "output": str(output_price),
                },
                request=[
                    {"role": "system", "content": f"You are {part.agent_id}. This is demo data."},
                    {"role": "user", "content": ASKS[part.agent_id]},
                ],
                response=part.says,
            ),
            now=end,
        )
        self.calls += 1
        return str(settled.message_id), end, settled.credits

    def failure(self, part: Part, run_id: str, start: datetime) -> datetime:
        """One call that the upstream never answered: no charge. Returns when it was given up."""
        end = start + timedelta(seconds=60)
        admission = self._admit(part, run_id, start, hold=10)
        billing.fail(
            self.engine,
            admission,
            billing.Failure(
                requested_model=part.model,
                provider="demo",
                started_at=start,
                latency_ms=60_000,
                error="The provider did not answer within 60 seconds.",
                http_status=504,
                stream=True,
            ),
            now=end,
        )
        return end

    def _admit(self, part: Part, run_id: str, start: datetime, hold: int) -> billing.Admission:
        claim = billing.Claim(
            token_hash=self.key,
            request_id=f"demo-{self._uuid().hex}",
            hold=hold,
            run_id=run_id,
            require_run=True,
            door="codebuff",
            model=part.model,
        )
        free = self.settings.stoa_free_credits
        admission = billing.admit(self.engine, claim, worker="demo", free_credits=free, now=start)
        if admission.outcome != "admitted":
            raise RuntimeError(f"the demo ran out of its own credits: {admission.outcome}")
        return admission

    def _uuid(self) -> uuid.UUID:
        return uuid.UUID(int=self.draw.getrandbits(128), version=4)
