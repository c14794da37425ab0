"""The state of the Stripe simulator: its objects, its clock, its events, and the file that stores them."""

import copy
import json
import secrets
import string
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import stripe

from views.demo.stripe_simulator.simulated_errors import SimulatedError, invalid, missing

Obj = dict[str, Any]

API_VERSION = stripe.api_version
KINDS: dict[str, tuple[str, type | None]] = {
    "customer": ("cus_", stripe.Customer),
    "tax_id": ("txi_", stripe.TaxId),
    "payment_method": ("pm_", None),
    "payment_intent": ("pi_", stripe.PaymentIntent),
    "setup_intent": ("seti_", stripe.SetupIntent),
    "charge": ("ch_", stripe.Charge),
    "refund": ("re_", stripe.Refund),
    "dispute": ("du_", stripe.Dispute),
    "balance_transaction": ("txn_", stripe.BalanceTransaction),
    "radar.early_fraud_warning": ("issfr_", stripe.radar.EarlyFraudWarning),
    "checkout.session": ("cs_test_", stripe.checkout.Session),
    "item": ("li_", stripe.LineItem),
    "product": ("prod_", stripe.Product),
    "price": ("price_", stripe.Price),
    "subscription": ("sub_", stripe.Subscription),
    "subscription_schedule": ("sub_sched_", stripe.SubscriptionSchedule),
    "subscription_item": ("si_", stripe.SubscriptionItem),
    "invoice": ("in_", stripe.Invoice),
    "line_item": ("il_", stripe.InvoiceLineItem),
    "invoiceitem": ("ii_", stripe.InvoiceItem),
    "invoice_payment": ("inpay_", stripe.InvoicePayment),
    "billing_portal.session": ("bps_", stripe.billing_portal.Session),
    "tax.calculation": ("taxcalc_", None),
    "tax.transaction": ("tax_", None),
    "event": ("evt_", None),
}
"""By type of object: the prefix of its ids, and the class of Stripe's library whose optional fields default to null."""
INCLUDABLE: dict[str, tuple[str, ...]] = {
    "customer": ("tax_ids", "subscriptions", "sources", "cash_balance", "invoice_credit_balance", "tax"),
    "charge": ("refunds", "level3", "authorization_code", "calculated_statement_descriptor", "source"),
    "checkout.session": ("line_items",),
    "invoice": ("payments", "confirmation_secret"),
    "price": ("currency_options", "tiers"),
}
"""Fields that Stripe shows only if expanded."""
WITHOUT_LIVEMODE = {"refund", "balance_transaction", "item", "subscription_item"}
LETTERS = string.ascii_letters + string.digits
KEYS_LAST = 86_400
"""Seconds for which the response under an idempotency key is stored."""
EVENTS_LAST = 30 * 86_400
RETRIES = (1, 2, 4, 8, 15, 30, 60, 60, 60, 60)
"""Seconds between attempts to deliver an event."""


class Simulator:
    """The state of a simulator. Hold `lock` to read or change it; requests do.

    Objects are plain JSON. Fields that begin with an underscore are internal and never shown.
    """

    def __init__(
        self, key: str, webhook_secret: str, *, webhook_url: str = "", file: Path | None = None
    ) -> None:
        self.key = key
        self.webhook_secret = webhook_secret
        self.webhook_url = webhook_url
        self.url = ""
        """The simulator's own URL, for its hosted pages."""
        self.lock = threading.RLock()
        self.changed = threading.Event()
        """Set when there are new events to deliver."""
        self._file = file
        self._frozen: int | None = None
        self.reset()
        if file is not None and file.exists():
            self._load(file)

    def reset(self) -> None:
        """Reset to the initial state."""
        self.objects: dict[str, dict[str, Obj]] = {kind: {} for kind in KINDS}
        self.answers: dict[str, Obj] = {}
        self.deliveries: dict[str, Obj] = {}
        self.faults: list[Obj] = []
        self.held = False
        self.offset = 0
        self.request: Obj = {"id": None, "idempotency_key": None}

    # --- time ---------------------------------------------------------------------------------------------------

    def now(self) -> int:
        """The simulated time, seconds since 1970."""
        return self._frozen if self._frozen is not None else int(time.time()) + self.offset

    @contextmanager
    def at(self, moment: int) -> Iterator[None]:
        """Set the clock back to the time of a due action while it runs."""
        before, self._frozen = self._frozen, moment
        try:
            yield
        finally:
            self._frozen = before

    # --- objects ------------------------------------------------------------------------------------------------

    def new_id(self, kind: str) -> str:
        """A new id of that type."""
        return KINDS[kind][0] + "".join(secrets.choice(LETTERS) for _ in range(24))

    def blank(self, kind: str, **fields: Any) -> Obj:
        """A new object of that type, not stored: with id and time, and null for missing fields."""
        shape = KINDS[kind][1]
        made: Obj = {"id": self.new_id(kind), "object": kind}
        for name, hint in (shape.__annotations__ if shape else {}).items():
            if type(None) in get_args(hint) and name not in (*INCLUDABLE.get(kind, ()), "deleted"):
                made[name] = None
        if kind not in ("item", "line_item", "invoiceitem"):
            made["created"] = self.now()
        if kind not in WITHOUT_LIVEMODE:
            made["livemode"] = False
        return made | fields

    def add(self, kind: str, **fields: Any) -> Obj:
        """Create and store an object."""
        made = self.blank(kind, **fields)
        self.objects[kind][made["id"]] = made
        return made

    def get(self, kind: str, id: str, param: str = "id", status: int = 404) -> Obj:
        """An object by its id. Raises SimulatedError if there is none."""
        found = self.objects[kind].get(id)
        if found is None:
            raise missing(kind.replace("radar.", "").replace(".", " "), id, param, status)
        return found

    def refer(self, kind: str, id: str, param: str) -> Obj:
        """An object that a parameter names."""
        return self.get(kind, id, param, status=400)

    def find(self, kind: str, **fields: Any) -> list[Obj]:
        """The objects of a type with these values, newest first."""
        found = [
            each
            for each in self.objects[kind].values()
            if all(each.get(name) == value for name, value in fields.items())
        ]
        return found[::-1]

    # --- responses ----------------------------------------------------------------------------------------------

    def render(self, obj: Obj, paths: tuple[str, ...] | list[str] = ()) -> Obj:
        """A copy for a response, with fields expanded. Raises SimulatedError for an invalid path."""
        shown: Obj = _public(obj)
        for path in paths:
            if path.count(".") > 3:
                raise invalid("You cannot expand more than 4 levels of a property.", "expand")
            self._expand(shown, path.split("."), path)
        return shown

    def _expand(self, shown: Any, path: list[str], whole: str) -> None:
        if isinstance(shown, list):
            for item in shown:
                self._expand(item, path, whole)
            return
        name, *rest = path
        if not isinstance(shown, dict):
            return
        if name not in shown and name in INCLUDABLE.get(str(shown.get("object")), ()):
            shown[name] = self._included(shown, name)
        if name not in shown:
            raise invalid(f"This property cannot be expanded ({whole}).", "expand")
        value = shown[name]
        if isinstance(value, str):
            found = self._by_id(value)
            if found is None:
                raise invalid(f"This property cannot be expanded ({whole}).", "expand")
            shown[name] = _public(found)
        if rest:
            self._expand(shown[name], rest, whole)

    def _by_id(self, id: str) -> Obj | None:
        for kind, (beginning, _) in KINDS.items():
            if id.startswith(beginning) and id in self.objects[kind]:
                return self.objects[kind][id]
        return None

    def _included(self, shown: Obj, name: str) -> Any:
        id = shown["id"]
        if name == "refunds":
            return listing(self.find("refund", charge=id), f"/v1/charges/{id}/refunds")
        if name == "tax_ids":
            return listing(self.find("tax_id", customer=id), f"/v1/customers/{id}/tax_ids")
        if name == "subscriptions":
            active = [each for each in self.find("subscription", customer=id) if each["status"] != "canceled"]
            return listing(active, f"/v1/customers/{id}/subscriptions")
        if name == "line_items":
            lines = self.objects["checkout.session"][id]["_lines"]
            return listing(lines, f"/v1/checkout/sessions/{id}/line_items")
        if name == "payments":
            return listing(self.find("invoice_payment", invoice=id), "/v1/invoice_payments")
        if name == "confirmation_secret":
            payments = self.find("invoice_payment", invoice=id)
            if not payments:
                return None
            intent = self.get("payment_intent", payments[0]["payment"]["payment_intent"])
            return {"client_secret": intent["client_secret"], "type": "payment_intent"}
        return None

    # --- events -------------------------------------------------------------------------------------------------

    def emit(self, type: str, obj: Obj, **previous: Any) -> Obj:
        """Record an event with a copy of the object, to be delivered."""
        data: Obj = {"object": _public(obj)}
        if previous:
            data["previous_attributes"] = previous
        event = self.add(
            "event",
            type=type,
            api_version=API_VERSION,
            data=data,
            pending_webhooks=1 if self.webhook_url else 0,
            request=dict(self.request),
        )
        self.deliveries[event["id"]] = {"attempts": 0, "delivered": False, "due": time.time()}
        self.changed.set()
        return event

    def change(self, obj: Obj, type: str, **fields: Any) -> None:
        """Change fields of an object and record the event with their previous values. Does nothing if nothing differs."""
        previous = {name: obj.get(name) for name, value in fields.items() if obj.get(name) != value}
        if previous:
            obj |= fields
            shown = {name: value for name, value in previous.items() if not name.startswith("_")}
            self.emit(type, obj, **copy.deepcopy(shown))

    # --- the file -----------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write the state to the file, atomically. Does nothing without a file."""
        if self._file is None:
            return
        self._forget_the_old()
        kept = {
            "objects": self.objects,
            "answers": self.answers,
            "deliveries": self.deliveries,
            "offset": self.offset,
        }
        self._file.parent.mkdir(parents=True, exist_ok=True)
        made = self._file.with_suffix(".new")
        made.write_text(json.dumps(kept), encoding="utf-8")
        made.replace(self._file)

    def _forget_the_old(self) -> None:
        """Delete stored responses after a day and events after 30 days, as Stripe does."""
        now = self.now()
        self.answers = {key: each for key, each in self.answers.items() if each["at"] > now - KEYS_LAST}
        events = self.objects["event"]
        for id in [id for id, each in events.items() if each["created"] < now - EVENTS_LAST]:
            del events[id], self.deliveries[id]

    def _load(self, file: Path) -> None:
        kept = json.loads(file.read_text(encoding="utf-8"))
        self.objects |= kept["objects"]
        self.answers = kept["answers"]
        self.deliveries = kept["deliveries"]
        self.offset = kept["offset"]


def listing(items: list[Obj], url: str, *, more: bool = False) -> Obj:
    """Stripe's list object."""
    return {"object": "list", "data": [_public(item) for item in items], "has_more": more, "url": url}


def _public(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _public(part) for name, part in value.items() if not name.startswith("_")}
    if isinstance(value, list):
        return [_public(part) for part in value]
    return value


Hook = Callable[[Simulator, Obj], None]
__all__ = ["API_VERSION", "Hook", "Obj", "SimulatedError", "Simulator", "listing"]
