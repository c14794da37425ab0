"""Customers, their tax ids and their payment methods in the Stripe simulator."""

import time
from typing import Any

from views.demo.stripe_simulator import simulated_cards
from views.demo.stripe_simulator.simulated_cards import BY_KIND, BY_NUMBER, PlayCard
from views.demo.stripe_simulator.simulated_errors import SimulatedError, invalid
from views.demo.stripe_simulator.simulated_params import Params
from views.demo.stripe_simulator.simulated_routes import endpoint, lists
from views.demo.stripe_simulator.simulated_state import Obj, Simulator

CUSTOMER = (
    "address balance business_name description email individual_name invoice_settings metadata name payment_method phone"
    " preferred_locales shipping tax_exempt tax_id_data"
)
ADDRESS = ("city", "country", "line1", "line2", "postal_code", "state")
TAX_ID_TYPES = (
    "ae_trn au_abn br_cnpj ca_bn ch_uid ch_vat cn_tin de_stn eu_vat gb_vat hk_br il_vat in_gst is_vat jp_cn kr_brn li_uid li_vat"
    " mx_rfc no_vat nz_gst rs_pib sg_uen th_vat tr_tin tw_vat ua_vat us_ein za_vat"
)


@endpoint("POST", "/v1/customers", CUSTOMER)
def create_customer(sim: Simulator, params: Params) -> Obj:
    """POST /v1/customers."""
    customer = sim.add(
        "customer",
        balance=0,
        delinquent=False,
        invoice_prefix=sim.new_id("customer")[-8:].upper(),
        invoice_settings={
            "custom_fields": None,
            "default_payment_method": None,
            "footer": None,
            "rendering_options": None,
        },
        next_invoice_sequence=1,
        preferred_locales=[],
        tax_exempt="none",
        metadata={},
    )
    customer |= _fields(sim, customer, params)
    for tax_id in params.each("tax_id_data"):
        _tax_id(sim, customer, tax_id)
    sim.emit("customer.created", customer)
    if method := params.text("payment_method"):
        attach(sim, usable_method(sim, method), customer["id"])
    return customer


@endpoint("GET", "/v1/customers/{id}")
def retrieve_customer(sim: Simulator, params: Params, id: str) -> Obj:
    """GET /v1/customers/{id}; a deleted customer has only its id."""
    customer = sim.get("customer", id)
    return {"id": id, "object": "customer", "deleted": True} if customer.get("_deleted") else customer


@endpoint("POST", "/v1/customers/{id}", CUSTOMER)
def update_customer(sim: Simulator, params: Params, id: str) -> Obj:
    """POST /v1/customers/{id}."""
    customer = living_customer(sim, id)
    sim.change(customer, "customer.updated", **_fields(sim, customer, params))
    return customer


@endpoint("DELETE", "/v1/customers/{id}")
def delete_customer(sim: Simulator, params: Params, id: str) -> Obj:
    """DELETE /v1/customers/{id}: detaches its payment methods."""
    customer = living_customer(sim, id)
    for method in sim.find("payment_method", customer=id):
        method["customer"] = None
    customer["_deleted"] = True
    sim.emit("customer.deleted", customer)
    return {"id": id, "object": "customer", "deleted": True}


@lists("/v1/customers", "customer", "email")
def list_customers(sim: Simulator, params: Params) -> list[Obj]:
    """GET /v1/customers."""
    return [each for each in sim.find("customer") if not each.get("_deleted")]


def living_customer(sim: Simulator, id: str, param: str = "id") -> Obj:
    """A customer that is not deleted. Raises SimulatedError."""
    customer = sim.get("customer", id, param, 404 if param == "id" else 400)
    if customer.get("_deleted"):
        raise SimulatedError(
            f"No such customer: '{id}'",
            status=404 if param == "id" else 400,
            code="resource_missing",
            param=param,
        )
    return customer


def _fields(sim: Simulator, customer: Obj, params: Params) -> Obj:
    names = ("business_name", "description", "email", "individual_name", "name", "phone", "tax_exempt")
    found: Obj = {name: params.text(name) for name in names if name in params}
    if "email" in params and "@" not in (params.text("email") or "@"):
        raise invalid(f"Invalid email address: {params.text('email')}", "email", "email_invalid")
    if "balance" in params:
        found["balance"] = params.integer("balance", 0)
    if "address" in params:
        found["address"] = address(params.nested("address")) if params["address"] else None
    if "preferred_locales" in params:
        found["preferred_locales"] = params.texts("preferred_locales")
    if "shipping" in params:
        found["shipping"] = params["shipping"] or None
    if "metadata" in params:
        found["metadata"] = params.metadata(customer["metadata"])
    settings = params.nested("invoice_settings")
    if "default_payment_method" in settings:
        method = settings.text("default_payment_method")
        if method is not None:
            where = "invoice_settings[default_payment_method]"
            if sim.refer("payment_method", method, where)["customer"] != customer["id"]:
                raise invalid(
                    f"The customer does not have a payment method with the ID {method}. The payment method must be attached "
                    "to the customer.",
                    where,
                    "resource_missing",
                )
        found["invoice_settings"] = customer["invoice_settings"] | {"default_payment_method": method}
    return found


def address(given: Params) -> Obj:
    """Stripe's address object."""
    return {name: given.text(name) for name in ADDRESS}


# --- tax ids ------------------------------------------------------------------------------------------------------------


@endpoint("POST", "/v1/customers/{id}/tax_ids", "type value")
def create_tax_id(sim: Simulator, params: Params, id: str) -> Obj:
    """POST /v1/customers/{id}/tax_ids."""
    return _tax_id(sim, living_customer(sim, id), params)


@endpoint("GET", "/v1/customers/{id}/tax_ids/{tax_id}")
def retrieve_tax_id(sim: Simulator, params: Params, id: str, tax_id: str) -> Obj:
    """GET /v1/customers/{id}/tax_ids/{tax_id}."""
    return sim.get("tax_id", tax_id)


@endpoint("DELETE", "/v1/customers/{id}/tax_ids/{tax_id}")
def delete_tax_id(sim: Simulator, params: Params, id: str, tax_id: str) -> Obj:
    """DELETE /v1/customers/{id}/tax_ids/{tax_id}."""
    found = sim.get("tax_id", tax_id)
    del sim.objects["tax_id"][tax_id]
    sim.emit("customer.tax_id.deleted", found)
    return {"id": tax_id, "object": "tax_id", "deleted": True}


@lists("/v1/customers/{id}/tax_ids", "tax_id")
def list_tax_ids(sim: Simulator, params: Params, id: str) -> list[Obj]:
    """GET /v1/customers/{id}/tax_ids."""
    return sim.find("tax_id", customer=living_customer(sim, id)["id"])


def _tax_id(sim: Simulator, customer: Obj, params: Params) -> Obj:
    kind, value = params.needed("type"), params.needed("value")
    if kind not in TAX_ID_TYPES.split():
        raise invalid(f"Invalid type: {kind}", "type")
    if len(value) < 5:
        raise invalid(f"Invalid value for {kind}.", "value", "tax_id_invalid")
    tax_id = sim.add(
        "tax_id",
        country=kind[:2].upper() if not kind.startswith("eu") else value[:2].upper(),
        customer=customer["id"],
        owner={"account": None, "application": None, "customer": customer["id"], "type": "customer"},
        type=kind,
        value=value,
        verification={"status": "pending", "verified_address": None, "verified_name": None},
    )
    sim.emit("customer.tax_id.created", tax_id)
    return tax_id


# --- payment methods ----------------------------------------------------------------------------------------------------


@endpoint("POST", "/v1/payment_methods", "allow_redisplay billing_details card link metadata type")
def create_method(sim: Simulator, params: Params) -> Obj:
    """POST /v1/payment_methods."""
    kind = params.one_of("type", ("card", "link"), "card")
    details = params.nested("billing_details")
    if kind == "link":
        return new_method(sim, BY_KIND["link"], details, params.metadata())
    given = params.nested("card")
    given.allow(("token", "number", "exp_month", "exp_year", "cvc"))
    if token := given.text("token"):
        card = simulated_cards.by_test_id(token)
        if card is None:
            raise invalid(f"No such token: '{token}'", "card[token]", "resource_missing")
        return new_method(sim, card, details, params.metadata())
    number = given.needed("number").replace(" ", "")
    card = BY_NUMBER.get(number)
    if card is None:
        raise SimulatedError(
            "Your card number is incorrect.",
            status=402,
            type="card_error",
            code="incorrect_number",
            param="number",
        )
    method = new_method(sim, card, details, params.metadata())
    method["card"] |= {
        "exp_month": given.needed_integer("exp_month"),
        "exp_year": given.needed_integer("exp_year"),
    }
    return method


@endpoint("GET", "/v1/payment_methods/{id}")
def retrieve_method(sim: Simulator, params: Params, id: str) -> Obj:
    """GET /v1/payment_methods/{id}."""
    return sim.get("payment_method", id)


@endpoint("POST", "/v1/payment_methods/{id}", "allow_redisplay billing_details card metadata")
def update_method(sim: Simulator, params: Params, id: str) -> Obj:
    """POST /v1/payment_methods/{id}: expiry, billing details, metadata."""
    method = sim.get("payment_method", id)
    changed: Obj = {}
    if "metadata" in params:
        changed["metadata"] = params.metadata(method["metadata"])
    if "billing_details" in params:
        changed["billing_details"] = method["billing_details"] | _details(params.nested("billing_details"))
    if "card" in params:
        card = params.nested("card")
        card.allow(("exp_month", "exp_year"))
        changed["card"] = method["card"] | {name: card.integer(name) for name in card}
    sim.change(method, "payment_method.updated", **changed)
    return method


@endpoint("POST", "/v1/payment_methods/{id}/attach", "customer")
def attach_method(sim: Simulator, params: Params, id: str) -> Obj:
    """POST /v1/payment_methods/{id}/attach: 402 for a card that declines."""
    customer = living_customer(sim, params.needed("customer"), "customer")
    method = usable_method(sim, id, "id")
    card = BY_KIND[method["_kind"]]
    if card.refuses_to_be_saved:
        raise declined(card.decline_code)
    return attach(sim, method, customer["id"])


@endpoint("POST", "/v1/payment_methods/{id}/detach")
def detach_method(sim: Simulator, params: Params, id: str) -> Obj:
    """POST /v1/payment_methods/{id}/detach: it cannot be used again."""
    method = sim.get("payment_method", id)
    if method["customer"] is None:
        raise invalid(
            "The payment method you provided is not attached to a customer so detachment is impossible."
        )
    detach(sim, method)
    return method


@lists("/v1/payment_methods", "payment_method", "customer type")
def list_methods(sim: Simulator, params: Params) -> list[Obj]:
    """GET /v1/payment_methods."""
    if customer := params.text("customer"):
        living_customer(sim, customer, "customer")
        return sim.find("payment_method")
    return []


@lists("/v1/customers/{id}/payment_methods", "payment_method", "type")
def list_customer_methods(sim: Simulator, params: Params, id: str) -> list[Obj]:
    """GET /v1/customers/{id}/payment_methods."""
    return sim.find("payment_method", customer=living_customer(sim, id)["id"])


@endpoint("GET", "/v1/customers/{id}/payment_methods/{method}")
def retrieve_customer_method(sim: Simulator, params: Params, id: str, method: str) -> Obj:
    """GET /v1/customers/{id}/payment_methods/{method}."""
    found = sim.get("payment_method", method)
    if found["customer"] != id:
        raise SimulatedError(
            f"No such payment_method: '{method}'", status=404, code="resource_missing", param="payment_method"
        )
    return found


def usable_method(sim: Simulator, id: str, param: str = "payment_method") -> Obj:
    """A payment method by its id; one of Stripe's test ids creates a new one. Raises SimulatedError."""
    if card := simulated_cards.by_test_id(id):
        return new_method(sim, card, Params(), {})
    method = sim.get("payment_method", id, param, 404 if param == "id" else 400)
    if method.get("_spent"):
        raise invalid(
            "The provided PaymentMethod was previously used with a PaymentIntent without Customer attachment, shared with a "
            "connected account without Customer attachment, or was detached from a Customer. It may not be used again. To use "
            "a PaymentMethod multiple times, you must attach it to a Customer first.",
            param,
        )
    return method


def new_method(sim: Simulator, card: PlayCard, details: Params, metadata: dict[str, str]) -> Obj:
    """A new payment method without a customer."""
    type = "link" if card.kind == "link" else "sepa_debit" if card.delayed else "card"
    own: Any = _card(card)
    if type == "link":
        own = {"email": details.text("email") or "play@example.org", "persistent_token": None}
    elif type == "sepa_debit":
        own = {"bank_code": "37040044", "branch_code": "", "country": "DE", "last4": card.last4}
        own |= {"fingerprint": card.fingerprint, "generated_from": None}
    return sim.add(
        "payment_method",
        allow_redisplay="unspecified",
        billing_details={
            "address": address(Params()),
            "email": None,
            "name": None,
            "phone": None,
            "tax_id": None,
        }
        | _details(details),
        customer=None,
        metadata=metadata,
        type=type,
        _kind=card.kind,
        **{type: own},
    )


def attach(sim: Simulator, method: Obj, customer: str) -> Obj:
    """Attach a payment method to a customer. Raises SimulatedError if it belongs to another."""
    if method["customer"] == customer:
        return method
    if method["customer"] is not None:
        raise invalid(
            "The payment method you provided has already been attached to a customer.", "payment_method"
        )
    method["customer"] = customer
    sim.emit("payment_method.attached", method)
    return method


def detach(sim: Simulator, method: Obj) -> None:
    """Detach a payment method from its customer, also as default."""
    customer = sim.get("customer", method["customer"])
    before = method["customer"]
    method |= {"customer": None, "_spent": True}
    sim.emit("payment_method.detached", method, customer=before)
    if customer["invoice_settings"]["default_payment_method"] == method["id"]:
        settings = customer["invoice_settings"] | {"default_payment_method": None}
        sim.change(customer, "customer.updated", invoice_settings=settings)


def declined(decline_code: str, **more: Any) -> SimulatedError:
    """The error of a card that declines."""
    code = decline_code if decline_code in simulated_cards.PLAIN_CODES else "card_declined"
    return SimulatedError(
        simulated_cards.message(code, decline_code),
        status=402,
        type="card_error",
        code=code,
        decline_code=None if code == decline_code and code != "authentication_required" else decline_code,
        **more,
    )


def _card(card: PlayCard) -> Obj:
    year = time.gmtime().tm_year
    return {
        "brand": card.brand,
        "checks": {"address_line1_check": None, "address_postal_code_check": None, "cvc_check": "pass"},
        "country": "US",
        "display_brand": card.brand,
        "exp_month": 12,
        "exp_year": year - 1 if card.expired else year + 4,
        "fingerprint": card.fingerprint,
        "funding": "credit",
        "generated_from": None,
        "last4": card.last4,
        "networks": {"available": [card.brand], "preferred": None},
        "regulated_status": "unregulated",
        "three_d_secure_usage": {"supported": True},
        "wallet": None,
    }


def _details(given: Params) -> Obj:
    found: Obj = {name: given.text(name) for name in ("email", "name", "phone", "tax_id") if name in given}
    if "address" in given:
        found["address"] = address(given.nested("address"))
    return found
