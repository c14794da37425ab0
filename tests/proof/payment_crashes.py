"""`kill -9` of the server between each two steps of a purchase and of an automatic top-up.

A step is a request to Stripe or a commit; work is suspended before and after each. Many purchases and top-ups are
suspended at different steps, then everything is killed at once. The restarted server repairs the rest.
"""

import json
import random
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import requests

from tests.proof import kill_points
from tests.proof.cast import Person
from tests.proof.payments import Payments, echo, wait_for
from tests.proof.stage import Result
from tests.proof.topups import AMOUNT, attempts, enable

CREDITS = 1000
CARDS_OF_PURCHASES: Sequence[str | None] = ("visa", "declined", None)
CARDS_OF_TOPUPS: Sequence[str] = ("visa", "insufficient_funds", "three_d_secure")
PURCHASES_AT_ONCE = 10
"""Half of them hold a database connection of their worker."""


@dataclass(frozen=True)
class Stop:
    """A purchase or top-up with this card, to be suspended at a step."""

    topup: bool
    card: str | None
    step: int
    place: str


@dataclass(frozen=True)
class Stopped:
    """The person of a suspended purchase or top-up."""

    stop: Stop
    person: Person


def payment_crashes(payments: Payments, *, passes: int = 1, stride: int = 1) -> Result:
    """Kill at every `stride`-th step, `passes` times. Alternately webhooks and reconciliation, or reconciliation alone,
    repair."""
    folder = payments.folder
    stops = [*_stops(payments, folder, topup=False), *_stops(payments, folder, topup=True)]
    counts = Counter((stop.topup, stop.card) for stop in stops)
    for (topup, card), count in counts.items():
        echo(f"{'a top-up' if topup else 'a purchase'} with {card or 'no card'} has {count} kill points")
    stops = [stop for stop in stops if stop.step % stride == 0]
    everyone: list[Stopped] = []
    kills, slowest = 0, 0.0
    for number in range(passes):
        for chunk in _chunks(stops):
            by_webhooks, power = (kills + number) % 2 == 0, kills % 3 == 2
            stopped = _stop_all(payments, folder, chunk)
            payments.server.kill_all(postgres=power)
            payments.server.start()
            slowest = max(slowest, payments.server.wait_until_ready())
            kills += 1
            _repair(payments, by_webhooks)
            everyone += stopped
            for each in stopped:
                _check(payments, each)
            payments.check_agreement()
            echo(
                f"kill {kills}: {len(stopped)} stopped"
                f"{', PostgreSQL too' if power else ''}; {'webhooks and ' if by_webhooks else ''}reconciler: agree"
            )
    _check_recovery(payments, everyone)
    paid = payments.check_agreement()
    payments.stage.prove()
    purchases = sum(not stop.topup for stop in stops)
    return Result(
        "payment crashes",
        f"{kills} x kill -9 of the server, {kills // 3} of them with PostgreSQL: {purchases} places of a purchase and "
        f"{len(stops) - purchases} of a top-up, {passes} times each, with cards that pay, decline, need confirmation, and none",
        f"{paid} payments, each granted once; Stripe and the ledger agree after each; ready again within {slowest:.0f} s",
    )


def _stops(payments: Payments, folder: Path, *, topup: bool) -> list[Stop]:
    """All steps, recorded from runs without a kill."""
    found = []
    for card in CARDS_OF_TOPUPS if topup else CARDS_OF_PURCHASES:
        (person,) = payments.buyers(1, card=card)
        if topup:
            kill_points.stop_account(folder, person.id, 0)
            enable(payments, person)
        else:
            payments.buy(person, CREDITS, **{kill_points.HEADER: json.dumps([person.id, 0])})
        _wait_for(folder, person, "done")
        places = kill_points.steps_of(folder, person.id)[:-1]
        assert len(places) > 8, places
        found += [Stop(topup, card, step, place) for step, place in enumerate(places, 1)]
    for session in payments.sim.find("checkout.session"):
        if session["status"] == "open":
            payments.stripe.pay(session["id"])
    payments.reconcile()
    return found


def _chunks(stops: list[Stop]) -> list[list[Stop]]:
    """Groups of stops that are killed together."""
    purchases = [stop for stop in stops if not stop.topup]
    topups = [stop for stop in stops if stop.topup]
    random.shuffle(purchases)
    random.shuffle(topups)
    size = kill_points.JOBS_AT_ONCE
    chunks = []
    while purchases or topups:
        chunks.append(purchases[:PURCHASES_AT_ONCE] + topups[:size])
        purchases, topups = purchases[PURCHASES_AT_ONCE:], topups[size:]
    return chunks


def _stop_all(payments: Payments, folder: Path, stops: list[Stop]) -> list[Stopped]:
    """Start all, and wait until each is suspended."""
    stopped = [Stopped(stop, payments.buyers(1, card=stop.card)[0]) for stop in stops]
    for each in stopped:
        if each.stop.topup:
            kill_points.stop_account(folder, each.person.id, each.stop.step)
            enable(payments, each.person)
    pool = ThreadPoolExecutor(PURCHASES_AT_ONCE)
    for each in stopped:
        if not each.stop.topup:
            pool.submit(_buy, payments, each)
    for each in stopped:
        _wait_for(folder, each.person, "stopped", each.stop)
    pool.shutdown(wait=False)
    return stopped


def _buy(payments: Payments, each: Stopped) -> None:
    with suppress(requests.RequestException):  # the server is killed
        payments.buy(
            each.person, CREDITS, **{kill_points.HEADER: json.dumps([each.person.id, each.stop.step])}
        )


def _wait_for(folder: Path, person: Person, last: str, stop: Stop | None = None) -> None:
    wait_for(
        lambda: kill_points.steps_of(folder, person.id)[-1:] == [last],
        60,
        lambda: f"not {last}: {stop} {kill_points.steps_of(folder, person.id)}",
    )


def _repair(payments: Payments, by_webhooks: bool) -> None:
    """Activity after a restart: open Checkout pages are paid, Stripe redelivers its events, and the reconciliation
    runs."""
    for session in payments.sim.find("checkout.session"):
        if session["status"] == "open":
            assert payments.stripe.pay(session["id"])
    if by_webhooks:
        before = [event["id"] for event in payments.events()]
        with payments.delivering():
            payments.wait_handled(before, 120)
        payments.check_agreement()  # all payments must be stored by now
    payments.reconcile()
    assert not payments.open_purchases()


def _check(payments: Payments, each: Stopped) -> None:
    """Assert that the credits match the charged money, at whichever step it was killed."""
    person, stop = each.person, each.stop
    charged = sum(charge.amount for charge in payments.charges(person))
    assert charged in (0, AMOUNT if stop.topup else CREDITS), f"{stop}: charged {charged}"
    assert payments.stage.balance(person) == charged, f"{stop}: charged {charged}"
    if stop.topup and stop.card != "visa":
        assert not charged, f"{stop}: charged {charged}"


def _check_recovery(payments: Payments, everyone: list[Stopped]) -> None:
    """Assert that pending top-ups are eventually charged once, and that killed buyers can buy again."""
    waiting = [each for each in everyone if each.stop.topup and each.stop.card == "visa"]
    echo(f"waiting for the top-ups of {len(waiting)} accounts")

    def missing() -> list[Stopped]:
        return [each for each in waiting if attempts(payments, each.person).count("paid") != 1]

    wait_for(
        lambda: not missing(),
        240,
        lambda: f"not topped up: {[(each.stop, attempts(payments, each.person)) for each in missing()][:3]}",
        pause=1,
    )
    for each in everyone:
        if each.stop.topup:
            assert len(payments.charges(each.person)) == (each.stop.card == "visa"), each.stop
        elif each.stop.card == "visa":
            before = payments.stage.balance(each.person)
            answer = payments.buy(each.person, CREDITS)
            assert answer.json() == {"success": True, "credits": CREDITS}, f"{each.stop}: {answer.text}"
            assert payments.stage.balance(each.person) == before + CREDITS
