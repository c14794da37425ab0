"""All orders of the events of a payment, interleaved with the steps of its history at Stripe.

The effect of an event depends on the current state at Stripe and on the stored state. So an order is a path through a
graph: a node is the number of steps done at Stripe, the set of handled events, and the stored state; an edge is the next
step at Stripe or the next event. Each edge is traversed with a separate payment, and traversing it again must lead to the
same node. Then every order is a path of tested edges and ends in one of the final nodes.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from models.billing.payments import stripe_events
from tests.proof.cast import Person
from tests.proof.payments import Obj, Payments, echo
from tests.proof.stage import Result

CREDITS = 1000
AT_STRIPE = "next step at Stripe"
PROGRESS_EVERY = 20.0
"""Interval of progress lines, in seconds."""
OF_PURCHASES = tuple(
    type
    for type in stripe_events.HANDLERS
    if type.startswith(("checkout.", "payment_intent.", "charge.", "refund."))
)

Facts = tuple[object, ...]
Node = tuple[int, frozenset[str], Facts]
"""Number of steps done at Stripe, handled events, and stored state."""
Step = Callable[["Walk"], None]


@dataclass(frozen=True)
class History:
    """Consecutive steps at Stripe, and the expected final credits."""

    name: str
    steps: Sequence[Step]
    left: int
    begin: Callable[["Walk"], None]
    """Sets up the walk: its customer, and a purchase or subscription of its person."""
    facts: Callable[["Walk"], Facts]
    """The stored state of the walk: status, remaining credits, and everything that an event's effect may depend on."""
    events: Sequence[str] = OF_PURCHASES
    """Event types to deliver."""


@dataclass
class Walk:
    """One payment on its path through the graph."""

    payments: Payments
    history: History
    person: Person
    seen: int
    """Number of Stripe's events at the last `collect_events`."""
    customer: str = ""
    method: str = ""
    session: str = ""
    subscription: str = ""
    dispute: str = ""
    refund: str = ""
    """Ids of its objects at Stripe; of the last one for disputes and refunds."""
    done: int = 0
    waiting: dict[str, Obj] = field(default_factory=dict)
    """Undelivered events, by a name that is the same in all walks."""
    handled: set[str] = field(default_factory=set)

    @property
    def charge(self) -> str:
        """The charge at Stripe."""
        with self.payments.sim.lock:
            charges = self.payments.sim.find("charge", customer=self.customer)
        return str(charges[0]["id"])

    def node(self) -> Node:
        """The current node."""
        return self.done, frozenset(self.handled), self.history.facts(self)

    def choices(self) -> list[str]:
        """The edges of the current node."""
        stripe = [AT_STRIPE] if self.done < len(self.history.steps) else []
        return stripe + list(self.waiting)

    def take(self, choice: str) -> None:
        """Traverse an edge: do the next step at Stripe, or deliver an event and wait until it is handled."""
        if choice == AT_STRIPE:
            self._advance()
            return
        event = self.waiting.pop(choice)
        assert self.payments.deliver(event).json() == {"received": True}
        self.payments.wait_handled([event["id"]])
        self.handled.add(choice)

    def _advance(self) -> None:
        self.history.steps[self.done](self)
        self.done += 1
        self.collect_events()

    def collect_events(self) -> None:
        """Collect the events that Stripe created since the last call."""
        since, self.seen = self.seen, self.payments.event_count()
        for event in self.payments.events(*self.history.events, after=since):
            if self._is_own(event["data"]["object"]):
                number = sum(name.startswith(f"{self.done} {event['type']} ") for name in self.waiting)
                self.waiting[f"{self.done} {event['type']} {number}"] = event

    def _is_own(self, object: Obj) -> bool:
        """Whether an event's object belongs to this walk's customer: several walks run concurrently."""
        if object.get("customer"):
            return bool(object["customer"] == self.customer)
        if "charge" not in object:
            return False
        with self.payments.sim.lock:
            return bool(self.payments.sim.get("charge", object["charge"])["customer"] == self.customer)


class OrderGraph:
    """The explored nodes and edges of a history."""

    def __init__(self, start: Node, choices: list[str]) -> None:
        self.start = start
        self.edges: dict[Node, dict[str, Node | None]] = {start: dict.fromkeys(choices)}
        """The edges of each reached node with their targets; None: not traversed yet."""
        self.reserved: set[tuple[Node, str]] = set()
        self.ends: set[Facts] = set()
        self.lock = threading.Lock()

    def plan(self, node: Node) -> list[str]:
        """The shortest path of traversed edges to an untraversed edge, that edge included; empty if there is none.
        Reserves the edge for the caller."""
        with self.lock:
            seen, queue = {node}, deque([(node, list[str]())])
            while queue:
                at, way = queue.popleft()
                for choice, to in self.edges[at].items():
                    if to is None and (at, choice) not in self.reserved:
                        self.reserved.add((at, choice))
                        return [*way, choice]
                    if to is not None and to not in seen:
                        seen.add(to)
                        queue.append((to, [*way, choice]))
        return []

    def walked(self, at: Node, choice: str, to: Node, choices: list[str]) -> None:
        """Record a traversed edge. Raises AssertionError if it led to another node before."""
        with self.lock:
            known = self.edges[at][choice]
            assert known in (None, to), f"{choice} leads from {at} to {known}, and to {to}"
            self.edges[at][choice] = to
            self.edges.setdefault(to, dict.fromkeys(choices))
            if not choices:
                self.ends.add(to[2])

    @property
    def size(self) -> int:
        """The number of traversed edges."""
        with self.lock:
            return sum(to is not None for edges in self.edges.values() for to in edges.values())

    @property
    def complete(self) -> bool:
        """Whether every known edge was traversed."""
        with self.lock:
            return all(to is not None for edges in self.edges.values() for to in edges.values())

    def orders(self) -> int:
        """The number of orders: paths from the start to an end."""
        counted: dict[Node, int] = {}

        def count(node: Node) -> int:
            if node not in counted:
                following = [to for to in self.edges[node].values() if to is not None]
                counted[node] = sum(map(count, following)) if following else 1
            return counted[node]

        return count(self.start)


def event_orders(
    payments: Payments, histories: Sequence[History] | None = None, *, name: str = "orders", walkers: int = 4
) -> Result:
    """Traverse the graph of each history."""
    found = []
    for history in HISTORIES if histories is None else histories:
        graph, walks = _explore(payments, history, walkers)
        assert len(graph.ends) == 1, f"{history.name} ends differently: {graph.ends}"
        (end,) = graph.ends
        assert end[1] == history.left, f"{history.name} leaves {end[1]} credits, not {history.left}"
        found.append(f"{history.name}: {graph.orders():,} orders ({graph.size:,} steps, {walks} payments)")
        echo(f"{found[-1]}; each ends {end[0]} with {end[1]} credits")
    ignored = payments.stage.rows("SELECT type, ignored FROM stripe_event WHERE ignored IS NOT NULL")
    assert not ignored, ignored[:3]
    payments.stage.prove()
    return Result(name, "; ".join(found), "each history has one end, whatever the order")


def _explore(payments: Payments, history: History, walkers: int) -> tuple[OrderGraph, int]:
    first = _begun(payments, history)
    graph = OrderGraph(first.node(), first.choices())
    counts = [0] * walkers

    stopped = threading.Event()

    def walker(number: int) -> None:
        while not graph.complete and not stopped.is_set():
            plan = graph.plan(graph.start)
            if plan:
                counts[number] += 1
                go(plan)
            else:  # other workers may reach new nodes
                stopped.wait(0.25)

    def go(plan: list[str]) -> None:
        walk = _begun(payments, history)
        at = walk.node()
        assert at == graph.start, f"{history.name} begins at {at}, not {graph.start}"
        while plan and not stopped.is_set():
            for choice in plan:
                walk.take(choice)
                to = walk.node()
                graph.walked(at, choice, to, walk.choices())
                at = to
            plan = graph.plan(at)

    with ThreadPoolExecutor(walkers) as pool:
        walking = [pool.submit(walker, number) for number in range(walkers)]
        try:
            while not _over(walking):
                echo(f"  {history.name}: {graph.size} steps, {sum(counts)} payments")
        finally:
            stopped.set()
        for done in walking:
            done.result()
    assert graph.complete, f"{history.name}: not every edge was traversed"
    return graph, sum(counts)


def _over(walking: list[Future[None]]) -> bool:
    """Wait up to PROGRESS_EVERY seconds. Returns whether all have ended or one has failed."""
    ended = wait(walking, PROGRESS_EVERY, FIRST_EXCEPTION)
    return not ended.not_done or any(each.exception() for each in ended.done)


def _begun(payments: Payments, history: History) -> Walk:
    walk = Walk(payments, history, payments.buyers(1, card=None)[0], payments.event_count())
    history.begin(walk)
    walk.collect_events()
    return walk


# -- purchases -----------------------------------------------------------------------------------------------


def _on_page(walk: Walk) -> None:
    """An open purchase on Stripe's Checkout page."""
    walk.session = walk.payments.checkout(walk.person, CREDITS)
    walk.customer = walk.payments.customer(walk.person) or ""


def _with_card(walk: Walk) -> None:
    """A purchase paid with a saved card."""
    walk.payments.add_card(walk.person, "visa")
    walk.customer = walk.payments.customer(walk.person) or ""
    answer = walk.payments.buy(walk.person, CREDITS)
    assert answer.json() == {"success": True, "credits": CREDITS}, answer.text


def _facts(walk: Walk) -> Facts:
    (row,) = walk.payments.stage.rows(
        "SELECT state, (SELECT coalesce(sum(amount), 0)::int FROM credit_entry WHERE account_id = p.user_id),"
        " refunded_cents, disputed_cents, taken_back, stripe_payment_intent_id IS NULL,"
        " stripe_charge_id IS NULL, stripe_checkout_session_id IS NULL,"
        " (SELECT string_agg(concat_ws(' ', amount_cents, withdrawn_cents, status), ',' ORDER BY id)"
        "  FROM purchase_dispute d WHERE d.purchase_id = p.id),"
        " (SELECT string_agg(concat_ws(' ', amount_cents, status), ',' ORDER BY amount_cents)"
        "  FROM purchase_refund r WHERE r.purchase_id = p.id)"
        " FROM purchase p WHERE user_id = :id",
        id=walk.person.id,
    )
    return tuple(row)


def _pay(walk: Walk) -> None:
    assert walk.payments.stripe.pay(walk.session)


def refund(amount: int) -> Step:
    """Refund `amount` cents at Stripe."""

    def step(walk: Walk) -> None:
        walk.refund = walk.payments.stripe.refund(walk.charge, amount)["id"]

    return step


def _fail_refund(walk: Walk) -> None:
    walk.payments.stripe.control("refunds", refund=walk.refund, status="failed")


def dispute(walk: Walk) -> None:
    """Open a dispute, which withdraws the money."""
    walk.dispute = walk.payments.stripe.dispute(walk.charge)["id"]


def _inquire(walk: Walk) -> None:
    walk.dispute = walk.payments.stripe.dispute(walk.charge, inquiry=True)["id"]


def _escalate(walk: Walk) -> None:
    walk.payments.stripe.control("disputes", dispute=walk.dispute, do="escalate")


def _win(walk: Walk) -> None:
    walk.payments.stripe.win(walk.dispute)


def lose(walk: Walk) -> None:
    """Lose the dispute."""
    walk.payments.stripe.lose(walk.dispute)


def _history(name: str, steps: Sequence[Step], left: int) -> History:
    return History(name, [_pay, *steps], left, _on_page, _facts)


PURCHASE = _history("a purchase", [], 1000)
HISTORIES = [
    PURCHASE,
    History("a purchase with a saved card, refunded in part", [refund(250)], 750, _with_card, _facts),
    _history("a purchase and two refunds", [refund(200), refund(150)], 650),
    _history("a purchase and a refund that fails", [refund(400), _fail_refund], 1000),
    _history("a purchase and a dispute that is won", [dispute, _win], 1000),
    _history("a purchase and a dispute that is lost", [dispute, lose], 0),
    _history("a purchase and an inquiry that becomes a dispute", [_inquire, _escalate, lose], 0),
    History(
        "a purchase with a saved card, a refund and a dispute that is won",
        [refund(300), dispute, _win],
        700,
        _with_card,
        _facts,
    ),
]
