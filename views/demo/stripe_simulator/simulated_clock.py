"""The clock of the Stripe simulator: runs what is due when the clock is advanced or real time passes."""

from collections.abc import Callable

from views.demo.stripe_simulator.simulated_payments import settle_delayed
from views.demo.stripe_simulator.simulated_refunds import end_refund
from views.demo.stripe_simulator.simulated_state import Obj, Simulator

Due = tuple[int, Callable[[], None]]
SOURCES: list[Callable[[Simulator], list[Due]]] = []
"""Functions that return what happens later, each with its time."""


def advance(sim: Simulator, seconds: int) -> None:
    """Advance the clock, and run everything that becomes due in its order."""
    target = sim.now() + seconds
    _until(sim, target)
    sim.offset += seconds


def tick(sim: Simulator) -> None:
    """Run what is due by real time."""
    _until(sim, sim.now())


def _until(sim: Simulator, target: int) -> None:
    while True:
        due = [each for source in SOURCES for each in source(sim) if each[0] <= target]
        if not due:
            return
        moment, happen = min(due, key=lambda each: each[0])
        with sim.at(moment):
            happen()
        sim.save()


def _payments(sim: Simulator) -> list[Due]:
    def later(intent: Obj) -> Due:
        return intent["_due"], lambda: settle_delayed(sim, intent)

    return [later(each) for each in sim.objects["payment_intent"].values() if each.get("_due")]


def _refunds(sim: Simulator) -> list[Due]:
    def later(refund: Obj) -> Due:
        return refund["_will_fail"], lambda: end_refund(sim, refund, "failed")

    return [later(each) for each in sim.objects["refund"].values() if each.get("_will_fail")]


SOURCES += [_payments, _refunds]
