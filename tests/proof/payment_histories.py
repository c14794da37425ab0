"""Random payment histories: purchases, calls, referrals, top-ups, declines, refunds, lost responses and events, disputes,
expiring credits. At the end all sums must match."""

import random
import secrets
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from datetime import timedelta
from pathlib import Path

from models import billing, ledger
from models.billing.payments import stripe_events
from models.billing.referral_program.referrals import BONUS
from models.core.db import now
from models.ledger.statement_check import check_statement
from tests.proof.cast import Person
from tests.proof.load import call, run_in_thread
from tests.proof.payments import Obj, Payments, echo, wait_for
from tests.proof.race import MODEL
from tests.proof.stage import Result
from tests.proof.topups import enable
from tests.proof.upstream import Script

CARDS = ["visa", "visa", "visa", "declined", "insufficient_funds", "lost_card", "three_d_secure"]
PROGRESS_EVERY = 20.0
"""Seconds."""
DISPUTES_EACH = 3
"""Maximum disputes per person; five would ban them."""
FAULTS = [
    ("POST", "/v1/payment_intents", "before"),
    ("POST", "/v1/payment_intents", "after"),
    ("POST", "/v1/checkout/sessions", "after"),
    ("GET", "/v1/payment_intents/{id}", "before"),
    ("GET", "/v1/checkout/sessions/{id}", "before"),
    ("GET", "/v1/refunds", "before"),
    ("GET", "/v1/disputes", "before"),
]


def payment_histories(
    payments: Payments, *, people: int = 10, steps: int = 100, actors: int = 6, seed: int | None = None
) -> Result:
    """Actors take random steps concurrently; then all events are delivered, and the state is reconciled and compared. The
    printed seed reproduces the choices, but not their timing."""
    seed = secrets.randbits(32) if seed is None else seed
    echo(f"seed {seed}")
    history = PaymentHistory(payments, payments.buyers(people))
    with payments.delivering():
        with ThreadPoolExecutor(actors) as pool:
            acting = [
                pool.submit(history.act, random.Random(f"{seed}-{number}"), steps) for number in range(actors)
            ]
            try:
                while not_done := wait(acting, PROGRESS_EVERY, FIRST_EXCEPTION).not_done:
                    if any(each.done() and each.exception() for each in acting):
                        break
                    echo(f"  {sum(history.counts.values())} steps; {len(not_done)} actors running")
            finally:
                history.stopped.set()
            for done in acting:
                done.result()
        echo(f"{sum(history.counts.values())} steps: {counted(history.counts)}")
        history.settle_down()
    output = payments.reconcile()
    echo(f"reconciled: {output.strip().splitlines()[-1]}")
    paid = payments.check_agreement()
    history.check_sums()
    payments.stage.prove()
    states = payments.stage.rows("SELECT state, count(*)::int FROM purchase GROUP BY state ORDER BY state")
    return Result(
        "payment histories",
        f"seed {seed}: {actors} actors x {steps} steps on {people} accounts: {counted(history.counts)}",
        f"{paid} payments ({', '.join(f'{row.count} {row.state}' for row in states)}); conservation, statements, chain, "
        f"purchases and Stripe agree; lowest balance {history.lowest()}",
    )


def counted(counts: Counter[str]) -> str:
    """The counts as text, most frequent first."""
    return ", ".join(f"{count} {name}" for name, count in counts.most_common())


class PaymentHistory:
    """The steps of the actors, and the state expected from them."""

    def __init__(self, payments: Payments, people: list[Person]) -> None:
        self.payments, self.people = payments, people
        self.counts: Counter[str] = Counter()
        self.granted: dict[str, int] = defaultdict(int)
        """Granted credits that were not bought, by person."""
        self.disputes: Counter[str] = Counter()
        self.lock = threading.Lock()
        self.stopped = threading.Event()
        self.at_stripe = threading.Lock()
        """Locked from reading a charge until it is changed."""
        self.heads = 0
        found = payments.stage.rows('SELECT id, referral_code FROM "user" WHERE referral_code IS NOT NULL')
        self.codes = {row.id: row.referral_code for row in found}

    def act(self, rng: random.Random, steps: int) -> None:
        """Take random steps."""
        weights = [weight for _, weight in STEPS]
        for _ in range(steps):
            if self.stopped.is_set():
                return
            ((step, _),) = rng.choices(STEPS, weights)
            done = step(self, rng, rng.choice(self.people))
            if done:
                with self.lock:
                    self.counts[done] += 1

    # -- steps: each returns a label for the counts, or an empty string ----------------------------------------

    def buy(self, rng: random.Random, person: Person) -> str:
        """Buy with the saved card, or on Stripe's page."""
        answer = self.payments.buy(person, rng.choice([500, 777, 1000, 2500]))
        assert answer.status_code in (200, 403, 409, 429, 500), f"{answer.status_code} {answer.text}"
        if answer.status_code != 200:
            return f"purchases with status {answer.status_code}"
        session = answer.json().get("sessionId")
        if session is None:
            return "purchases"
        if rng.random() < 0.3:
            return "abandoned pages"
        self.payments.stripe.pay(session, rng.choice(["visa", "mastercard"]))
        return "purchases on Stripe's page"

    def spend(self, rng: random.Random, person: Person) -> str:
        """A call through the gateway."""
        tokens = rng.randint(1, 4000)
        script = Script(f"history-{rng.getrandbits(60):x}", completion=tokens)
        outcome = run_in_thread(
            call(
                self.payments.server.address,
                person.key,
                script,
                model=MODEL,
                max_tokens=tokens,
                stream=rng.random() < 0.5,
            )
        )
        assert outcome.complete or outcome.status in (402, 429, 503), (
            f"{outcome.status} {outcome.error} {outcome.body!r}"
        )
        return "calls" if outcome.complete else "refused calls"

    def refund(self, rng: random.Random, person: Person) -> str:
        """Refund a part or the rest of a charge; some refunds fail later."""
        with self.at_stripe:
            charge = self._charge(rng)
            if charge is None or charge["disputed"]:
                return ""
            amount = rng.choice([charge["left"], rng.randint(1, charge["left"])])
            made = self.payments.stripe.refund(charge["id"], amount)
            if rng.random() < 0.2:
                self.payments.stripe.control("refunds", refund=made["id"], status="failed")
                return "failed refunds"
        return "refunds"

    def dispute(self, rng: random.Random, person: Person) -> str:
        """Open a dispute or an inquiry."""
        with self.at_stripe:
            charge = self._charge(rng)
            if charge is None or charge["disputed"] or self.disputes[charge["customer"]] >= DISPUTES_EACH:
                return ""
            self.disputes[charge["customer"]] += 1
            self.payments.stripe.dispute(
                charge["id"], amount=rng.randint(1, charge["left"]), inquiry=rng.random() < 0.2
            )
        return "disputes"

    def decide(self, rng: random.Random, person: Person) -> str:
        """Close a dispute, or escalate an inquiry."""
        with self.at_stripe:
            with self.payments.sim.lock:
                every = [
                    (each["id"], each["status"])
                    for each in self.payments.sim.objects["dispute"].values()
                    if each["status"] in ("needs_response", "warning_needs_response")
                ]
            if not every:
                return ""
            id, status = rng.choice(every)
            do = rng.choice(
                ["win", "lose", "escalate"] if status == "warning_needs_response" else ["win", "lose"]
            )
            self.payments.stripe.control("disputes", dispute=id, do=do)
        return "decisions of disputes"

    def warn(self, rng: random.Random, person: Person) -> str:
        """Create an early fraud warning."""
        with self.at_stripe:
            charge = self._charge(rng)
            if charge is None:
                return ""
            self.payments.stripe.warn_of_fraud(charge["id"])
        return "warnings of fraud"

    def unfreeze(self, rng: random.Random, person: Person) -> str:
        """Lift the buying freeze as an operator."""
        with self.payments.stage.session() as session:
            cleared = billing.clear_freeze(person.account)
            session.commit()
        return "cleared freezes" if cleared else ""

    def change_card(self, rng: random.Random, person: Person) -> str:
        """Change the behaviour of the saved card, or save another one."""
        kind = rng.choice(CARDS)
        if rng.random() < 0.3:
            self.payments.add_card(person, kind)
            return "new cards"
        with self.payments.sim.lock:
            saved = self.payments.sim.find("payment_method", customer=self.payments.customer(person))
        for method in saved:
            self.payments.stripe.change_card(method["id"], kind)
        return "changed cards"

    def set_topup(self, rng: random.Random, person: Person) -> str:
        """Switch automatic top-up on or off."""
        if rng.random() < 0.3:
            self._disable(person)
            return "top-ups switched off"
        enable(self.payments, person, rng.choice([200, 500, 2000]), rng.choice([500, 1000]))
        return "top-ups switched on"

    def refer(self, rng: random.Random, person: Person) -> str:
        """Redeem another person's referral code, or the person's own."""
        other = rng.choice(self.people)
        answer = self.payments.post(
            person, "/api/referrals", {"referralCode": self.codes.get(other.id, "ref-none")}
        )
        assert answer.status_code in (200, 400, 404, 409, 429), f"{answer.status_code} {answer.text}"
        if answer.status_code != 200:
            return "refused referrals"
        with self.lock:
            self.granted[person.id] += BONUS
            self.granted[other.id] += BONUS
        return "referrals"

    def give(self, rng: random.Random, person: Person) -> str:
        """Grant credits that expire soon."""
        credits = rng.randint(1, 400)
        with self.payments.stage.session() as session:
            self.payments.stage.grant(
                person, credits, type="free", expires_at=now() + timedelta(seconds=rng.uniform(0.2, 20))
            )
            ledger.sweep()
            session.commit()
        with self.lock:
            self.granted[person.id] += credits
        return "expiring grants"

    def break_stripe(self, rng: random.Random, person: Person) -> str:
        """Let requests to Stripe fail, or lose their responses."""
        method, rule, when = rng.choice(FAULTS)
        self.payments.stripe.fail(rule, method=method, when=when, times=rng.choice([1, 3]))
        return "faults of Stripe"

    def hold_events(self, rng: random.Random, person: Person) -> str:
        """Hold or release the delivery of events."""
        self.payments.stripe.control("webhook", held=rng.random() < 0.5)
        return "held events"

    def repeat_events(self, rng: random.Random, person: Person) -> str:
        """Deliver some events early or again, in random order."""
        events = self.payments.events(*stripe_events.HANDLERS)
        for event in rng.sample(events, min(len(events), 8)):
            assert self.payments.deliver(event).status_code == 200
        return "repeated events"

    def record_head(self, rng: random.Random, person: Person) -> str:
        """Record a head of the ledger during the history."""
        with self.lock:
            self.heads += 1
            day = self.heads
        if day > 3:
            return ""
        with self.payments.stage.session() as session:
            ledger.record_head(now() - timedelta(days=3 - day))
            session.commit()
        return "recorded heads"

    def _charge(self, rng: random.Random) -> Obj | None:
        """A charge that is not fully refunded, with its current state."""
        with self.payments.sim.lock:
            found = [
                {"left": each["amount"] - each["amount_refunded"]} | each
                for each in self.payments.sim.objects["charge"].values()
                if each["status"] == "succeeded" and each["amount"] > each["amount_refunded"]
            ]
        return rng.choice(found) if found else None

    def _disable(self, person: Person) -> None:
        answer = self.payments.post(
            person, "/api/user/auto-topup", {"enabled": False, "threshold": None, "amount": None}
        )
        assert answer.status_code in (200, 403), answer.text

    # -- the end -----------------------------------------------------------------------------------------------

    def settle_down(self) -> None:
        """Stop new activity, and wait until every event is delivered and handled."""
        payments = self.payments
        with payments.sim.lock:
            payments.sim.faults.clear()
        payments.stripe.control("webhook", held=False)
        for person in self.people:
            self._disable(person)
        jobs = (
            "SELECT count(*) FROM procrastinate_jobs WHERE task_name = 'billing.top_up'"
            " AND status IN ('todo', 'doing')"
        )
        wait_for(lambda: not payments.stage.number(jobs), 90, lambda: "top-ups are still attempted")
        wait_for(self._all_delivered, 180, lambda: "events are not delivered")
        began = time.monotonic()
        while waiting := payments.stage.rows(
            "SELECT id, type, error FROM stripe_event WHERE handled_at IS NULL"
        ):
            assert time.monotonic() - began < 180, f"events are not handled: {waiting[:3]}"
            with payments.stage.session() as session:
                for event in waiting:  # retries immediately, like an operator
                    stripe_events.retry_event(event.id, failed_only=True)
                session.commit()
            time.sleep(3)
        payments.stage.wait_for_holds()
        ignored = payments.stage.rows("SELECT type, ignored FROM stripe_event WHERE ignored IS NOT NULL")
        assert not ignored, f"events were ignored: {ignored[:3]}"

    def _all_delivered(self) -> bool:
        with self.payments.sim.lock:
            return all(each["delivered"] for each in self.payments.sim.deliveries.values())

    def check_sums(self) -> None:
        """Assert for each account that Stripe, the calls and this history match its entries, grants and statement."""
        bought: dict[str, int] = defaultdict(int)
        for payment in self.payments.payments():
            bought[payment.user] += payment.credits - payment.taken_back
        for person in self.people:
            kinds: Counter[str] = Counter()
            for kind, amount in self.payments.entries(person):
                kinds[kind] += amount
            calls = sum(
                row.credits or 0 for row in self.payments.stage.calls([person]) if row.state == "settled"
            )
            assert -kinds["debit"] == calls, f"{person.id}: {calls} credits of calls, and {kinds}"
            own = bought[person.id] + self.granted[person.id]
            came = kinds["grant"] + kinds["revocation"] + kinds["reinstatement"]
            assert came == own, f"{person.id}: {own} credits came, and the ledger has {came}: {kinds}"
            balance = self.payments.stage.balance(person)
            assert sum(kinds.values()) == balance, f"{person.id}: {balance} credits, and {kinds}"
            self._check_statement(person, kinds, balance)

    def _check_statement(self, person: Person, kinds: Counter[str], balance: int) -> None:
        answer = self.payments.get(person, "/profile/statement.csv")
        assert answer.status_code == 200, answer.text[:300]
        check = check_statement(answer.text.splitlines(keepends=True))
        assert check.valid, f"{person.id}: {check.problems[:3]}"
        assert (check.closing_balance, check.from_start) == (balance, True), check.closing_balance
        of_file = {kind: amount for kind, amount in check.kinds.items() if amount}
        assert of_file == {kind: amount for kind, amount in kinds.items() if amount}, f"{of_file} {kinds}"
        if person is self.people[0]:
            with tempfile.NamedTemporaryFile(suffix=".csv") as file:
                Path(file.name).write_bytes(answer.content)
                self.payments.command("verify", file.name)

    def lowest(self) -> int:
        """The lowest balance, which is negative if money was returned after its credits were spent."""
        return min(self.payments.stage.balance(person) for person in self.people)


STEPS: list[tuple[Callable[[PaymentHistory, random.Random, Person], str], int]] = [
    (PaymentHistory.buy, 14),
    (PaymentHistory.spend, 30),
    (PaymentHistory.refund, 7),
    (PaymentHistory.dispute, 4),
    (PaymentHistory.decide, 4),
    (PaymentHistory.warn, 1),
    (PaymentHistory.unfreeze, 3),
    (PaymentHistory.change_card, 5),
    (PaymentHistory.set_topup, 6),
    (PaymentHistory.refer, 4),
    (PaymentHistory.give, 5),
    (PaymentHistory.break_stripe, 3),
    (PaymentHistory.hold_events, 3),
    (PaymentHistory.repeat_events, 4),
    (PaymentHistory.record_head, 1),
]
"""The steps with their weights."""
