"""Events of the Stripe simulator, and their delivery to the webhook: signed as Stripe does, and retried until accepted."""

import hashlib
import hmac
import json
import logging
import threading
import time
from collections.abc import Callable

import requests

from views.demo.stripe_simulator.simulated_params import Params
from views.demo.stripe_simulator.simulated_routes import endpoint, lists
from views.demo.stripe_simulator.simulated_state import RETRIES, Obj, Simulator

log = logging.getLogger("stoa.stripe_simulator")

Post = Callable[[bytes, dict[str, str]], int]
"""Sends a body with headers to the webhook; returns the status of the response, 0 for none."""


@endpoint("GET", "/v1/events/{id}")
def retrieve_event(sim: Simulator, params: Params, id: str) -> Obj:
    """GET /v1/events/{id}."""
    return sim.get("event", id)


@lists("/v1/events", "event", "type", other="types delivery_success")
def list_events(sim: Simulator, params: Params) -> list[Obj]:
    """GET /v1/events, newest first."""
    types = params.texts("types")
    found = [each for each in sim.find("event") if not types or each["type"] in types]
    if "delivery_success" in params:
        wanted = params.boolean("delivery_success")
        found = [each for each in found if sim.deliveries[each["id"]]["delivered"] == wanted]
    return found


def signature(payload: bytes, secret: str, moment: int | None = None) -> str:
    """The `Stripe-Signature` header of a payload."""
    moment = int(time.time()) if moment is None else moment
    signed = hmac.new(secret.encode(), b"%d.%s" % (moment, payload), hashlib.sha256).hexdigest()
    return f"t={moment},v1={signed}"


def payload_of(sim: Simulator, event: Obj) -> bytes:
    """The body of a delivery."""
    return json.dumps(sim.render(event), indent=2).encode()


def pending(sim: Simulator) -> list[Obj]:
    """Events that were not delivered yet, oldest first."""
    return [event for id, event in sim.objects["event"].items() if not sim.deliveries[id]["delivered"]]


def deliver(sim: Simulator, event: Obj, post: Post) -> int:
    """Send an event once, now; returns the status of the response. Do not hold the lock: the webhook may call the API."""
    body = payload_of(sim, event)
    headers = {
        "Content-Type": "application/json; charset=utf-8",
        "User-Agent": "Stripe/1.0 (+https://stripe.com/docs/webhooks)",
        "Stripe-Signature": signature(body, sim.webhook_secret),
    }
    status = post(body, headers)
    with sim.lock:
        delivery = sim.deliveries.get(event["id"])
        if delivery is None:  # the simulator was reset in between
            return status
        pause = RETRIES[min(delivery["attempts"], len(RETRIES) - 1)]
        delivery["attempts"] += 1
        delivery["due"] = time.time() + pause
        if 200 <= status < 300:
            delivery["delivered"] = True
            event["pending_webhooks"] = 0
        sim.save()
    return status


def post_to(url: str) -> Post:
    """Sends by HTTP as Stripe does: with a timeout of ten seconds, and without following redirects."""

    def post(body: bytes, headers: dict[str, str]) -> int:
        try:
            with requests.Session() as session:
                session.trust_env = False  # no proxy: both run on one machine
                return session.post(url, body, headers=headers, timeout=10, allow_redirects=False).status_code
        except requests.RequestException:
            return 0

    return post


class DeliveryThread(threading.Thread):
    """A thread that delivers events to `webhook_url` in their order, and runs what the clock makes due."""

    def __init__(self, sim: Simulator, tick: Callable[[Simulator], None]) -> None:
        super().__init__(daemon=True, name="stripe-simulator")
        self._sim, self._tick = sim, tick
        self._stopped = threading.Event()

    def run(self) -> None:
        """Deliver until stopped."""
        sim = self._sim
        while not self._stopped.is_set():
            sim.changed.wait(0.5)
            sim.changed.clear()
            with sim.lock:
                self._tick(sim)
                now = time.time()
                ready = [] if sim.held or not sim.webhook_url else pending(sim)
                ready = [each for each in ready if sim.deliveries[each["id"]]["due"] <= now]
            for event in ready:
                if self._stopped.is_set():
                    return
                status = deliver(sim, event, post_to(sim.webhook_url))
                if not 200 <= status < 300:
                    log.info("webhook %s answered %s", event["type"], status or "not at all")

    def stop(self) -> None:
        """Stop the thread and wait for its end."""
        self._stopped.set()
        self._sim.changed.set()
        self.join(15)
