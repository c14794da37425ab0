"""Property test: random histories of one account, run on the ledger and on a small reference model."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from models import ledger
from models.core.errors import Conflict, NotFound
from models.core.pool import Pool
from models.ledger import PRIORITIES, Account, Admission, CallFailure, CreditAccount, CreditLedger
from tests import factories
from tests.ledger.stage import NOW, assert_proved, call, grant_type, payer


@dataclass
class Grant:
    priority: int
    expires: datetime | None
    created: datetime
    balance: int
    principal: int
    type: str
    granted: int = 0
    taken: int = 0
    """By revocations, refunds and disputes."""
    revoked_at: int | None = None
    """What was taken when an operator revoked it."""

    def active(self, now: datetime) -> bool:
        return self.balance < 0 or self.expires is None or self.expires > now

    @property
    def order(self) -> tuple[Any, ...]:
        return (self.priority, self.expires is None, self.expires or self.created, self.created)


@dataclass
class Model:
    """A minimal reference model of the ledger's rules."""

    account: Account
    grants: dict[str, Grant] = field(default_factory=dict)
    holds: dict[str, tuple[int, datetime]] = field(default_factory=dict)
    carry: int = 0

    def in_order(self, now: datetime) -> list[Grant]:
        return sorted((g for g in self.grants.values() if g.active(now)), key=lambda g: g.order)

    def net(self, now: datetime) -> int:
        return sum(grant.balance for grant in self.in_order(now))

    def expire(self, now: datetime) -> None:
        for grant in self.grants.values():
            if not grant.active(now):
                grant.balance = 0

    def grant(self, operation: str, grant: Grant, now: datetime) -> None:
        if operation in self.grants:
            return
        self.expire(now)
        for other in self.in_order(now) if grant.type != "organization" else ():
            cleared = min(grant.balance, max(0, -other.balance))
            other.balance += cleared
            grant.balance -= cleared
        self.grants[operation] = grant

    def take(self, amount: int, cause: str, now: datetime) -> None:
        self.expire(now)
        grants = self.in_order(now)
        for grant in grants:
            part = min(amount, max(0, grant.balance))
            grant.balance -= part
            amount -= part
        if not amount:
            return
        if not grants:
            type = grant_type(self.account, "admin")
            grants = [Grant(PRIORITIES[type], None, now, 0, 0, type)]
            self.grants[f"debt-{cause}"] = grants[0]
        grants[-1].balance -= amount

    def admit(self, request: str, hold: int, until: datetime, now: datetime) -> str:
        held = [amount for amount, expires in self.holds.values() if expires > now]
        if self.net(now) <= 0:
            return "out_of_credits"
        if held and self.net(now) - sum(held) < hold:
            return "held"
        self.holds[request] = (hold, until)
        return "admitted"

    def settle(self, request: str, micro: int, now: datetime) -> int:
        self.holds.pop(request, None)
        credits = (micro + 500_000) // 1_000_000
        if not credits:
            self.carry += micro
            credits, self.carry = divmod(self.carry, 1_000_000)
        if credits:
            self.take(credits, request, now)
        return credits


operations = st.integers(0, 12).map("op-{}".format)
amounts = st.integers(1, 400)
micros = st.one_of(
    st.integers(0, 1_000_000), st.integers(0, 200).map(lambda credits: credits * 1_000_000), st.just(499_999)
)


class History(RuleBasedStateMachine):
    """The history of one account. Time only moves forward."""

    admissions: Bundle[Admission] = Bundle("admissions")
    settled: Bundle[Admission] = Bundle("settled")

    def __init__(self, session: Session, pool: Pool) -> None:
        super().__init__()
        self.session = session
        self.pool = pool
        self.now = NOW
        self.requests = 0

    @initialize()
    def begin(self) -> None:
        self.who = payer(self.session, factories.new_id("user-"), next_quota_reset=NOW + timedelta(days=3000))
        self.account = self.who.account
        self.model = Model(self.account)

    def operation(self, name: str) -> str:
        return f"{name}-{self.who.id}"

    @rule(minutes=st.integers(0, 300))
    def time_passes(self, minutes: int) -> None:
        self.now += timedelta(minutes=minutes)

    @rule(
        name=operations,
        amount=amounts,
        type=st.sampled_from(["free", "referral", "admin", "purchase"]),
        minutes=st.none() | st.integers(1, 500),
    )
    def grant(self, name: str, amount: int, type: str, minutes: int | None) -> None:
        self.now += timedelta(seconds=1)
        expires = None if minutes is None else self.now + timedelta(minutes=minutes)
        operation = self.operation(name)
        type = grant_type(self.account, type)
        granted = ledger.grant(
            self.account, amount, type, operation_id=operation, expires_at=expires, now=self.now
        )
        self.session.commit()
        assert granted.created == (operation not in self.model.grants)
        grant = Grant(PRIORITIES[type], expires, self.now, amount, amount, type, amount)
        self.model.grant(operation, grant, self.now)
        assert granted.balance == self.model.grants[operation].balance

    @rule(name=operations)
    def revoke(self, name: str) -> None:
        self.now += timedelta(seconds=1)
        operation = self.operation(name)
        grant = self.model.grants.get(operation)
        if grant and grant.balance < 0:
            with pytest.raises(Conflict):
                ledger.revoke(operation, "refund", now=self.now)
            self.session.rollback()
            return
        if grant:
            self.model.expire(self.now)
        left = grant.balance if grant else 0
        assert ledger.revoke(operation, "refund", now=self.now) == left
        self.session.commit()
        if grant:
            if grant.principal or grant.balance:
                grant.taken += grant.balance
                grant.revoked_at = grant.taken
            grant.principal = grant.balance = 0

    @rule(name=operations, total=st.integers(0, 400), cause=st.sampled_from(["refund", "dispute"]))
    def take_back(self, name: str, total: int, cause: str) -> None:
        self.now += timedelta(seconds=1)
        operation = self.operation(name)
        grant = self.model.grants.get(operation)
        if grant is None:
            with pytest.raises(NotFound):
                ledger.take_back(operation, total, cause, now=self.now)
            self.session.rollback()
            return
        self.model.expire(self.now)
        moved = max(min(total, grant.granted), grant.revoked_at or 0) - grant.taken
        assert ledger.take_back(operation, total, cause, now=self.now) == moved
        self.session.commit()
        grant.taken += moved
        grant.balance -= moved
        if grant.revoked_at is None:
            grant.principal -= moved
        self.model.expire(self.now)

    @rule(amount=amounts)
    def charge(self, amount: int) -> None:
        self.now += timedelta(seconds=1)
        self.requests += 1
        cause = f"cause-{self.requests}-{self.who.id}"
        charged = ledger.charge(self.account, amount, cause=cause, now=self.now)
        self.session.commit()
        self.model.take(amount, cause, self.now)
        assert charged.balance == self.model.net(self.now)

    @rule(target=admissions, hold=st.integers(0, 300), minutes=st.integers(1, 60))
    def admit(self, hold: int, minutes: int) -> Admission:
        self.now += timedelta(seconds=1)
        self.requests += 1
        request = f"req-{self.requests}-{self.who.id}"
        call_request = ledger.AdmissionRequest(token_hash=self.who.key, request_id=request, hold=hold)
        admission = ledger.admit(self.pool, call_request, ttl_seconds=minutes * 60, now=self.now)
        until = self.now + timedelta(minutes=minutes)
        assert admission.balance == self.model.net(self.now)
        assert admission.outcome == self.model.admit(request, hold, until, self.now)
        return admission

    @rule(target=settled, admission=consumes(admissions), micro=micros)
    def settle(self, admission: Admission, micro: int) -> Admission:
        self.now += timedelta(seconds=1)
        if admission.outcome != "admitted":
            return admission
        cost = Decimal(micro) / 100_000_000
        facts = call(cost=cost, margin=Decimal(0), started_at=self.now)
        found = ledger.settle(self.pool, admission, facts, now=self.now)
        assert found.credits == self.model.settle(admission.request_id, micro, self.now)
        return admission

    @rule(admission=settled, micro=micros)
    def settle_again(self, admission: Admission, micro: int) -> None:
        if admission.outcome == "admitted":
            facts = call(cost=Decimal(micro), margin=Decimal(0))
            assert ledger.settle(self.pool, admission, facts, now=self.now).duplicate

    @rule(admission=consumes(admissions))
    def fail(self, admission: Admission) -> None:
        if admission.outcome == "admitted":
            failure = CallFailure(requested_model="m", started_at=self.now, latency_ms=1, error="refused")
            ledger.fail(self.pool, admission, failure, now=self.now)
            del self.model.holds[admission.request_id]

    @rule(admission=admissions, minutes=st.integers(1, 60))
    def extend(self, admission: Admission, minutes: int) -> None:
        if admission.outcome == "admitted":
            until = self.now + timedelta(minutes=minutes)
            request = admission.request_id
            assert ledger.extend_holds(self.pool, [request], ttl_seconds=minutes * 60, now=self.now) == 1
            self.model.holds[request] = (self.model.holds[request][0], until)

    @rule(admission=admissions, needed=st.integers(0, 300), more=st.integers(0, 300))
    def grow(self, admission: Admission, needed: int, more: int) -> None:
        if admission.outcome == "admitted":
            request = admission.request_id
            amount, until = self.model.holds[request]
            others = sum(
                hold for name, (hold, end) in self.model.holds.items() if name != request and end > self.now
            )
            possible = max(amount, min(needed + more, self.model.net(self.now) - others))
            grown = ledger.grow_hold(self.pool, request, needed=needed, requested=needed + more, now=self.now)
            assert not isinstance(grown, ledger.BudgetRefusal)
            assert grown == (possible if possible >= needed else None)
            self.model.holds[request] = (grown or amount, until)

    @rule()
    def sweep(self) -> None:
        self.now += timedelta(seconds=1)
        ledger.sweep(now=self.now, accounts=10_000)
        self.session.commit()
        self.model.expire(self.now)

    @invariant()
    def the_ledger_matches_the_model(self) -> None:
        self.session.rollback()
        account = func.coalesce(CreditLedger.org_id, CreditLedger.user_id)
        rows = self.session.execute(
            select(CreditLedger.operation_id, CreditLedger.principal, CreditLedger.balance).where(
                account == self.account.id
            )
        )
        found = {operation: (principal, balance) for operation, principal, balance in rows}
        assert found == {name: (g.principal, g.balance) for name, g in self.model.grants.items()}
        balance = ledger.balance(self.account, now=self.now)
        assert balance.net_balance == self.model.net(self.now)
        assert balance.held == sum(hold for hold, until in self.model.holds.values() if until > self.now)
        carry = self.session.scalar(
            select(CreditAccount.carry_micro).where(CreditAccount.id == self.account.id)
        )
        assert (carry or 0) == self.model.carry
        self.session.rollback()

    def teardown(self) -> None:
        # expire holds that the history left
        ledger.sweep(now=self.now + timedelta(days=1), accounts=10_000)
        self.session.commit()


@pytest.mark.usefixtures("kind")
def test_any_history_matches_the_model(session: Session, pool: Pool) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        lambda: History(session, pool),
        settings=settings(
            max_examples=30,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    assert_proved(session, NOW + timedelta(days=3000))
