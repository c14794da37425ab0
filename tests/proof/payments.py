"""Shared by the payment proofs: the Stripe simulator in this process, buyers with cards, webhooks over HTTP, and
comparison of Stripe with the ledger."""

import json
import logging
import secrets
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import requests
from sqlalchemy import text

from models.accounts import User
from models.core.settings import ROOT
from tests.fakes.stripe_simulator import WEBHOOK, StripeSim
from tests.proof.cast import Person
from tests.proof.stage import Serve, Stage
from tests.server import serving
from views.demo.stripe_simulator import Simulator, create_simulator
from views.demo.stripe_simulator.simulated_clock import tick
from views.demo.stripe_simulator.simulated_events import DeliveryThread, payload_of, signature

T = TypeVar("T")
Obj = dict[str, Any]

SETTINGS = {
    "STOA_PROXIES": "1",  # each buyer has a separate client address
    "STOA_PURCHASES_PER_DAY": "0",
    "STOA_PURCHASE_CENTS_PER_DAY": "0",
    "STOA_DECLINES_PER_CARD": "0",
    "STOA_DECLINES_PER_ADDRESS": "0",
    "STOA_REFERRAL_REWARD": "now",
    "NO_PROXY": "127.0.0.1",
    "no_proxy": "127.0.0.1",
}


@contextmanager
def simulated_stripe() -> Iterator[StripeSim]:
    """Stripe's simulator on loopback. Events are queued until `Payments.deliver` or `Payments.delivering`."""
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    simulator = Simulator(f"sk_test_proof_{secrets.token_hex(8)}", f"whsec_{secrets.token_hex(16)}")
    with serving(create_simulator(simulator)) as address, ExitStack() as stack:
        simulator.url = address
        yield StripeSim(simulator, None, stack)


def settings_of(stripe: StripeSim) -> dict[str, str]:
    """Environment variables of a server that uses this simulator."""
    return SETTINGS | {name.upper(): value for name, value in stripe.settings.items()}


@dataclass(frozen=True)
class StripePayment:
    """A successful payment at Stripe, by operation; amounts in cents."""

    operation: str
    user: str
    credits: int
    amount: int
    refunded: int
    withdrawn: int

    @property
    def taken_back(self) -> int:
        """Credits that must be taken back: in proportion to the returned money, rounded half up."""
        gone = min(self.amount, self.refunded + self.withdrawn)
        return (2 * self.credits * gone + self.amount) // (2 * self.amount)


class Payments:
    """A server that uses the simulator. `folder`: see kill_points."""

    def __init__(self, server: Serve, stage: Stage, stripe: StripeSim, folder: Path) -> None:
        self.server, self.stage, self.stripe, self.folder = server, stage, stripe, folder
        self.sim = stripe.simulator

    # -- buyers ----------------------------------------------------------------------------------------------

    def buyers(self, count: int, *, card: str | None = "visa", credits: int = 0) -> list[Person]:
        """Create Stripe customers, each with a unique saved card of this kind."""
        people = self.stage.people(count, credits)
        if card is not None:
            for person in people:
                self.add_card(person, card)
        return people

    def add_card(self, person: Person, kind: str) -> str:
        """Save a card as the person's default. Returns its id."""
        customer = self.customer(person) or self._make_customer(person)
        made = self.stripe.add_card(customer, "visa", fingerprint=secrets.token_hex(8))
        self.stripe.change_card(made["id"], kind)
        return str(made["id"])

    def customer(self, person: Person) -> str | None:
        """The person's Stripe customer id."""
        rows = self.stage.rows('SELECT stripe_customer_id FROM "user" WHERE id = :id', id=person.id)
        found: str | None = rows[0][0]
        return found

    def _make_customer(self, person: Person) -> str:
        client = self.stripe.client()
        made = client.v1.customers.create(
            {"email": f"{person.id}@example.org", "metadata": {"user_id": person.id}}
        )
        with self.stage.session() as session:
            user = session.get_one(User, person.id)
            user.stripe_customer_id = made.id
            session.commit()
        return made.id

    def post(self, person: Person, path: str, body: Obj, **headers: str) -> requests.Response:
        """A JSON request by the person's browser."""
        return self._request("POST", person, path, json=body, headers=headers)

    def get(self, person: Person, path: str) -> requests.Response:
        """A page for the person's browser."""
        return self._request("GET", person, path, headers={})

    def _request(
        self, method: str, person: Person, path: str, *, headers: dict[str, str], **kw: Any
    ) -> requests.Response:
        number = int.from_bytes(person.id.encode()[-3:]) % 2**24
        own = {
            "Cookie": f"next-auth.session-token={person.cookie}",
            "X-Forwarded-For": f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}",
            "X-Forwarded-Proto": "http",
        }
        with requests.Session() as session:
            session.trust_env = False
            return session.request(
                method, self.server.address + path, headers=own | headers, timeout=60, **kw
            )

    def buy(self, person: Person, credits: int = 1000, **headers: str) -> requests.Response:
        """Buy as a browser does."""
        return self.post(person, "/api/stripe/buy-credits", {"credits": credits}, **headers)

    def checkout(self, person: Person, credits: int = 1000) -> str:
        """Start a purchase on Stripe's Checkout page, without a saved card. Returns the session id."""
        answer = self.buy(person, credits)
        assert "sessionId" in answer.json(), answer.text
        return str(answer.json()["sessionId"])

    # -- events ----------------------------------------------------------------------------------------------

    @contextmanager
    def delivering(self) -> Iterator[None]:
        """Deliver all events automatically, in order, with retries until they are accepted."""
        self.sim.webhook_url = self.server.address + WEBHOOK
        thread = DeliveryThread(self.sim, tick)
        thread.start()
        try:
            yield
        finally:
            thread.stop()
            self.sim.webhook_url = ""

    def event_count(self) -> int:
        """The number of events created so far."""
        with self.sim.lock:
            return len(self.sim.objects["event"])

    def events(self, *types: str, after: int = 0) -> list[Obj]:
        """Stripe's events of these types (all without one), oldest first, without the first `after`."""
        with self.sim.lock:
            found = list(self.sim.objects["event"].values())[after:]
        return [each for each in found if not types or each["type"] in types]

    def deliver(self, event: Obj) -> requests.Response:
        """Send one of Stripe's events to the webhook."""
        with self.sim.lock:
            body = payload_of(self.sim, event)
        return self.send(body)

    def send(
        self, body: bytes, *, secret: str | None = None, at: int | None = None, signed: str | None = None
    ) -> requests.Response:
        """Send a body to the webhook with a valid signature, or with the signature header `signed`."""
        if signed is None:
            signed = signature(body, secret or self.sim.webhook_secret, at)
        with requests.Session() as session:
            session.trust_env = False
            return session.post(
                self.server.address + WEBHOOK, body, headers={"Stripe-Signature": signed}, timeout=60
            )

    def send_event(self, type: str, object: Obj) -> str:
        """Send a made-up event with a valid signature. Returns its id."""
        id = f"evt_{secrets.token_hex(12)}"
        event = {
            "id": id,
            "object": "event",
            "type": type,
            "created": int(time.time()),
            "data": {"object": object},
        }
        answer = self.send(json.dumps(event).encode())
        assert answer.status_code == 200, answer.text
        return id

    def wait_handled(self, ids: Iterable[str], seconds: float = 90.0) -> None:
        """Wait until the job worker has handled these events."""
        wanted = list(ids)
        waiting = "SELECT count(*) FROM stripe_event WHERE id = ANY(:ids) AND handled_at IS NOT NULL"
        wait_for(
            lambda: self.stage.number(waiting, ids=wanted) == len(set(wanted)),
            seconds,
            lambda: (
                "events are not handled: "
                + str(
                    self.stage.rows(
                        "SELECT id, type, attempts, error FROM stripe_event"
                        " WHERE id = ANY(:ids) AND handled_at IS NULL",
                        ids=wanted,
                    )[:3]
                )
            ),
        )

    # -- stored state and Stripe's state ---------------------------------------------------------------------

    def charges(self, person: Person) -> list[StripePayment]:
        """The person's successful payments at Stripe."""
        return [each for each in self.payments() if each.user == person.id]

    def payments(self) -> list[StripePayment]:
        """All successful payments at Stripe with their refunds and disputes."""
        with self.sim.lock:
            refunded: dict[str, int] = defaultdict(int)
            for refund in self.sim.objects["refund"].values():
                if refund["status"] not in ("failed", "canceled"):
                    refunded[refund["charge"]] += refund["amount"]
            withdrawn: dict[str, int] = defaultdict(int)
            for dispute in self.sim.objects["dispute"].values():
                withdrawn[dispute["charge"]] -= sum(
                    each["amount"] for each in dispute["balance_transactions"]
                )
            found = []
            for charge in self.sim.objects["charge"].values():
                if charge["status"] != "succeeded":
                    continue
                facts = self.sim.get("payment_intent", charge["payment_intent"])["metadata"]
                if facts.get("grantType") not in ("purchase", "organization_purchase"):
                    continue
                found.append(
                    StripePayment(
                        facts["operationId"],
                        facts["userId"],
                        int(facts["credits"]),
                        charge["amount"],
                        refunded[charge["id"]],
                        withdrawn[charge["id"]],
                    )
                )
        return found

    def entries(self, person: Person) -> list[tuple[str, int]]:
        """The person's ledger entries: kinds and amounts, oldest first."""
        rows = self.stage.rows(
            "SELECT kind, amount FROM credit_entry WHERE account_id = :id ORDER BY id", id=person.id
        )
        return [(row.kind, row.amount) for row in rows]

    def check_agreement(self) -> int:
        """Assert that Stripe and the ledger agree: every successful payment was granted once, less returned money, and
        nothing else was. Returns the number of payments."""
        there = self.payments()
        operations = [each.operation for each in there]
        assert len(operations) == len(set(operations)), "Stripe charged an operation twice"
        rows = self.stage.rows(
            "SELECT p.id, p.user_id, p.credits, p.amount_cents, p.taken_back, p.state,"
            " (SELECT coalesce(sum(amount), 0) FROM credit_entry e WHERE e.operation_id = p.id"
            " AND e.kind IN ('grant', 'revocation', 'reinstatement')) AS net,"
            " (SELECT count(*) FROM credit_entry e WHERE e.operation_id = p.id AND e.kind = 'grant') AS grants"
            " FROM purchase p WHERE p.state NOT IN ('created', 'pending', 'failed', 'cancelled')"
        )
        here = {row.id: row for row in rows}
        assert set(here) == set(operations), f"only at Stripe or only here: {set(here) ^ set(operations)}"
        for each in there:
            row = here[each.operation]
            expected = (each.user, each.credits, each.amount, each.taken_back, 1)
            found = (row.user_id, row.credits, row.amount_cents, row.taken_back, row.grants)
            assert found == expected, f"{each.operation}: here {found}, at Stripe {expected}"
            assert row.net == row.credits - row.taken_back, f"{each.operation}: {row.net} credits left of it"
        return len(there)

    def open_purchases(self) -> list[Any]:
        """Purchases without a final state."""
        return self.stage.rows("SELECT id, state FROM purchase WHERE state IN ('created', 'pending')")

    # -- the operator ----------------------------------------------------------------------------------------

    def command(self, *arguments: str, code: int = 0) -> str:
        """Run `flask billing ...` and assert its exit code. Returns its output."""
        done = subprocess.run(
            [sys.executable, "-m", "flask", "--app", "app:create_app", "billing", *arguments],
            cwd=ROOT,
            env=self.server.environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == code, (
            f"flask billing {' '.join(arguments)}: {done.stdout}{done.stderr[-3000:]}"
        )
        return done.stdout

    def reconcile(self) -> str:
        """Reconcile with Stripe, with open purchases aged beyond their requests. Asserts that a second run finds nothing.
        Returns the output of the first run."""
        with self.stage.session() as session:
            session.execute(
                text(
                    "UPDATE purchase SET created_at = created_at - interval '3 minutes'"
                    " WHERE state IN ('created', 'pending')"
                )
            )
            session.commit()
        output = self.command("reconcile")
        again = self.command("reconcile")
        assert "Stripe and the purchases agree." in again, again
        return output


def at_once(count: int, call: Callable[[int], T]) -> list[T]:
    """Run `count` calls concurrently, started together."""
    barrier = threading.Barrier(count)

    def begin(number: int) -> T:
        barrier.wait(60)
        return call(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(begin, range(count)))


def wait_for(
    reached: Callable[[], bool], seconds: float, why: Callable[[], str], pause: float = 0.02
) -> None:
    """Wait until `reached` is true. Raises AssertionError with the reason after `seconds`."""
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, why()
        time.sleep(pause)
        pause = min(pause * 1.2, 0.25)


def echo(line: str) -> None:
    """Print progress."""
    print(f"  {line}", flush=True)
