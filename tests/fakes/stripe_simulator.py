"""The Stripe simulator on loopback, for every test that asks for `stripe_sim`: its server runs once, its memory is empty for
each test. Events wait until a test delivers them, so that it decides about order, repetition and lateness."""

import secrets
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import requests
import stripe
from flask.testing import FlaskClient

from tests.server import serving
from views.demo.stripe_simulator import Simulator, create_simulator, simulated_clock, simulated_control
from views.demo.stripe_simulator import simulated_events as delivery
from views.demo.stripe_simulator import simulated_refunds as money_back

Obj = dict[str, Any]
WEBHOOK = "/api/stripe/webhook"

PATIENCE = 60
"""Seconds that a test waits for the simulator."""
DETAILS = {"name": "Ada", "line1": "1 Analytical Row", "city": "London", "country": "GB"}
"""Filled in where the page asks."""


class StripeSim:
    """What a test may do with the simulator. Objects are copies, as the API shows them."""

    def __init__(self, simulator: Simulator, request: pytest.FixtureRequest | None, stack: ExitStack) -> None:
        self.simulator = simulator
        self.url = simulator.url
        self.key = simulator.key
        self.webhook_secret = simulator.webhook_secret
        self.webhook: FlaskClient | str | None = None
        """Where events go: a test client or an address. By default the test's application."""
        self._request, self._stack = request, stack

    @property
    def settings(self) -> dict[str, str]:
        """The settings of an application that uses this simulator."""
        return {
            "stripe_secret_key": self.key,
            "stripe_webhook_secret": self.webhook_secret,
            "stripe_api_base": self.url,
        }

    def client(self, **options: Any) -> stripe.StripeClient:
        """Stripe's own client for this simulator."""
        session = self._stack.enter_context(requests.Session())
        session.trust_env = False
        http = stripe.RequestsClient(session=session, timeout=PATIENCE)
        given: Obj = {"max_network_retries": 0, "base_addresses": {"api": self.url}} | options
        return stripe.StripeClient(self.key, http_client=http, **given)

    # --- cards and pages --------------------------------------------------------------------------------------------

    def add_card(
        self, customer: str, kind: str = "visa", *, fingerprint: str = "", default: bool = True
    ) -> Obj:
        """Save a card of that kind (simulated_cards.py lists them) for a customer, as its default; the payment method."""
        with self.simulator.lock:
            made = simulated_control.add_card(
                self.simulator, customer, kind, fingerprint=fingerprint, default=default
            )
            return self.simulator.render(made)

    def change_card(self, payment_method: str, kind: str) -> None:
        """Let a saved card behave like another kind from now on."""
        self.control("cards", payment_method=payment_method, kind=kind)

    def pay(self, session: str, card: str = "visa", *, confirm: bool = True, **fields: str) -> str:
        """Fill in the hosted page of a Checkout Session, and that of 3D Secure if it comes; where the browser goes then. An
        empty address when the card was refused."""
        answer = self._post(f"/checkout/{session}", {"card": card} | DETAILS | fields)
        if answer.status_code == 422:
            return ""
        address = answer.headers["Location"]
        if "/3ds/" not in address:
            return address
        return self._follow(self.authenticate(address.rpartition("/")[2], confirm=confirm))

    def authenticate(self, intent: str, *, confirm: bool = True) -> str:
        """Answer 3D Secure's page of a payment or setup intent; where the browser goes then."""
        answer = self._post(f"/3ds/{intent}", {"answer": "confirm" if confirm else "refuse"})
        return answer.headers.get("Location", "")

    # --- events -----------------------------------------------------------------------------------------------------

    def events(self, type: str | None = None) -> list[Obj]:
        """All events, oldest first, or those of a type."""
        with self.simulator.lock:
            found = list(self.simulator.objects["event"].values())
            return [self.simulator.render(each) for each in found if type in (None, each["type"])]

    def deliver(self, *which: str, to: FlaskClient | str | None = None) -> list[int]:
        """Deliver the events that wait, or these (ids or types, in the given order, also again); the statuses of the
        answers."""
        target = to or self.webhook
        if target is None:
            assert self._request is not None
            target = self._request.getfixturevalue("app").test_client()
        post = delivery.post_to(target) if isinstance(target, str) else _post_with(target)
        with self.simulator.lock:
            chosen = delivery.pending(self.simulator)
            if which:
                everything = list(self.simulator.objects["event"].values())
                chosen = [each for name in which for each in everything if name in (each["id"], each["type"])]
        return [delivery.deliver(self.simulator, each, post) for each in chosen]

    def signed(self, payload: bytes, *, secret: str | None = None, at: int | None = None) -> str:
        """The `Stripe-Signature` header of any payload: forged, stale or right."""
        return delivery.signature(payload, secret or self.webhook_secret, at)

    # --- what happens at Stripe -------------------------------------------------------------------------------------

    def dispute(
        self, charge: str, *, amount: int | None = None, reason: str = "fraudulent", inquiry: bool = False
    ) -> Obj:
        """The cardholder disputes a charge; the funds are withdrawn, except for an inquiry."""
        with self.simulator.lock:
            disputed = self.simulator.get("charge", charge)
            opened = money_back.open_dispute(
                self.simulator, disputed, amount=amount, reason=reason, withdraw=not inquiry
            )
            return self.simulator.render(opened)

    def win(self, dispute: str) -> Obj:
        """A dispute ends, and the funds come back."""
        return self.control("disputes", dispute=dispute, do="win")

    def lose(self, dispute: str) -> Obj:
        """A dispute ends, and the funds are gone."""
        return self.control("disputes", dispute=dispute, do="lose")

    def refund(self, charge: str, amount: int) -> Obj:
        """An operator refunds on Stripe's dashboard."""
        return self.control("refunds", charge=charge, amount=amount)

    def warn_of_fraud(self, charge: str) -> Obj:
        """The card's bank reports a charge as fraud."""
        return self.control("fraud_warnings", charge=charge)

    def advance(self, seconds: int) -> int:
        """Let time pass, with renewals and everything else that is due; the simulated time then."""
        with self.simulator.lock:
            simulated_clock.advance(self.simulator, seconds)
            return self.simulator.now()

    def fail(
        self, rule: str, *, method: str = "POST", when: str = "before", status: int = 500, times: int = 1
    ) -> None:
        """Break the next requests of an address such as `/v1/refunds` or `/v1/charges/{id}`: before anything is done, or
        `after` all of it, when only the answer is lost."""
        self.control("faults", rule=rule, method=method, when=when, status=status, times=times)

    def control(self, name: str, **body: Any) -> Obj:
        """Any of the control addresses."""
        headers = {"Authorization": f"Bearer {self.key}"}
        with requests.Session() as session:
            session.trust_env = False
            answer = session.post(f"{self.url}/_control/{name}", json=body, headers=headers, timeout=PATIENCE)
        assert answer.status_code == 200, answer.text
        found: Obj = answer.json()
        return found

    def _post(self, path: str, form: dict[str, str]) -> requests.Response:
        with requests.Session() as session:
            session.trust_env = False
            answer = session.post(self.url + path, form, timeout=PATIENCE, allow_redirects=False)
        assert answer.status_code in (200, 303, 422), answer.text
        return answer

    def _follow(self, address: str) -> str:
        """Over the simulator's own pages to the seller's."""
        if not address.startswith(self.url):
            return address
        with requests.Session() as session:
            session.trust_env = False
            answer = session.get(address, timeout=PATIENCE, allow_redirects=False)
        return answer.headers.get("Location", "")


def _post_with(client: FlaskClient) -> delivery.Post:
    def post(body: bytes, headers: dict[str, str]) -> int:
        answer = client.post(WEBHOOK, data=body, headers=headers)
        status = answer.status_code
        answer.close()
        return status

    return post


@pytest.fixture(scope="session")
def stripe_server() -> Iterator[Simulator]:
    """The simulator's server, for what needs its address before a test begins."""
    simulator = Simulator(f"sk_test_stoa_demo_{secrets.token_hex(8)}", f"whsec_{secrets.token_hex(16)}")
    with serving(create_simulator(simulator)) as address:
        simulator.url = address
        yield simulator


@pytest.fixture
def stripe_sim(stripe_server: Simulator, request: pytest.FixtureRequest) -> Iterator[StripeSim]:
    """The simulator, with nothing in its memory."""
    with stripe_server.lock:
        stripe_server.reset()
        stripe_server.webhook_url = ""
    with ExitStack() as stack:
        yield StripeSim(stripe_server, request, stack)
