"""Checkout Sessions of the Stripe simulator, in the modes payment, setup and subscription."""

from views.demo.stripe_simulator import simulated_catalogue, simulated_subscriptions
from views.demo.stripe_simulator.simulated_clock import SOURCES, Due
from views.demo.stripe_simulator.simulated_customers import (
    TAX_ID_TYPES,
    address,
    attach,
    create_customer,
    create_tax_id,
    living_customer,
)
from views.demo.stripe_simulator.simulated_errors import invalid, required
from views.demo.stripe_simulator.simulated_params import Params
from views.demo.stripe_simulator.simulated_payments import (
    AFTER_PAYMENT,
    checked_amount,
    close_intent,
    confirm_intent,
    new_intent,
)
from views.demo.stripe_simulator.simulated_routes import endpoint, lists
from views.demo.stripe_simulator.simulated_setups import confirm_setup, new_setup
from views.demo.stripe_simulator.simulated_state import Obj, Simulator, listing
from views.demo.stripe_simulator.simulated_tax import NO_LOCATION, country_of, tax_name, tax_of

SESSION = (
    "adaptive_pricing allow_promotion_codes automatic_tax billing_address_collection cancel_url client_reference_id"
    " consent_collection currency custom_text customer customer_creation customer_email customer_update expires_at"
    " invoice_creation line_items locale metadata mode name_collection payment_intent_data payment_method_collection"
    " payment_method_options payment_method_types phone_number_collection saved_payment_method_options setup_intent_data"
    " submit_type subscription_data success_url tax_id_collection ui_mode"
)
PAYMENT_DATA = (
    "description",
    "metadata",
    "receipt_email",
    "setup_future_usage",
    "statement_descriptor",
    "statement_descriptor_suffix",
)
DAY = 86_400


# --- the API ------------------------------------------------------------------------------------------------------------


@endpoint("POST", "/v1/checkout/sessions", SESSION)
def create_session(sim: Simulator, params: Params) -> Obj:
    """POST /v1/checkout/sessions."""
    mode = params.needed("mode")
    if mode not in ("payment", "setup", "subscription"):
        raise invalid("Invalid mode: must be one of payment, setup, or subscription", "mode")
    if (
        params.one_of("ui_mode", ("hosted_page", "embedded_page", "elements", "form"), "hosted_page")
        != "hosted_page"
    ):
        raise invalid("The simulator has hosted pages only.", "ui_mode")
    success_url, cancel_url = params.needed("success_url"), params.text("cancel_url")
    for name, url in (("success_url", success_url), ("cancel_url", cancel_url)):
        if url and not url.startswith(("http://", "https://")):
            raise invalid("Not a valid URL", name, "url_invalid")
    customer = _customer(sim, params)
    lines = [_line(sim, each, mode) for each in params.each("line_items")]
    if mode != "setup" and not lines:
        raise required("line_items")
    currency = lines[0]["currency"] if lines else params.text("currency")
    if any(line["currency"] != currency for line in lines):
        raise invalid("All prices on a Checkout Session must be in the same currency.", "line_items")
    total = sum(line["amount_total"] for line in lines)
    if mode == "payment":
        checked_amount(total, str(currency), "line_items")
    _check_data(params, mode)
    now = sim.now()
    expires = params.integer("expires_at", now + DAY) or 0
    if not now + 1800 - 60 <= expires <= now + DAY + 60:
        raise invalid(
            "The `expires_at` timestamp must be between 30 minutes and 24 hours from Checkout Session creation.",
            "expires_at",
        )
    session = sim.add(
        "checkout.session",
        adaptive_pricing={"enabled": False} if mode == "payment" else None,
        amount_subtotal=total if lines else None,
        amount_total=total if lines else None,
        automatic_tax={
            "enabled": params.nested("automatic_tax").boolean("enabled"),
            "liability": None,
            "provider": None,
            "status": None,
        },
        billing_address_collection=params.text("billing_address_collection"),
        cancel_url=cancel_url,
        client_reference_id=params.text("client_reference_id"),
        currency=currency,
        custom_fields=[],
        custom_text=dict.fromkeys(
            ("after_submit", "shipping_address", "submit", "terms_of_service_acceptance")
        ),
        customer=customer["id"] if customer else None,
        customer_creation=None
        if customer
        else params.text("customer_creation") or ("always" if mode == "subscription" else "if_required"),
        customer_details=_details(customer, params.text("customer_email")),
        customer_email=params.text("customer_email"),
        expires_at=expires,
        locale=params.text("locale"),
        metadata=params.metadata(),
        mode=mode,
        payment_method_collection="always" if mode == "subscription" else "if_required",
        payment_method_options={"card": {"request_three_d_secure": "automatic"}},
        payment_method_types=params.texts("payment_method_types") or ["card", "link"],
        payment_status="no_payment_required" if mode == "setup" else "unpaid",
        phone_number_collection={"enabled": False},
        shipping_options=[],
        status="open",
        submit_type=params.text("submit_type"),
        success_url=success_url,
        tax_id_collection={
            "enabled": params.nested("tax_id_collection").boolean("enabled"),
            "required": "never",
        },
        total_details={
            "amount_discount": 0,
            "amount_shipping": 0,
            "amount_tax": 0,
            "breakdown": {"discounts": [], "taxes": []},
        }
        if lines
        else None,
        ui_mode="hosted_page",
        _lines=lines,
        _data=_data(params, mode),
        _pay_intent=None,
        _update=_update(params),
    )
    _check_tax(session)
    session["url"] = f"{sim.url}/checkout/{session['id']}"
    return session


@endpoint("GET", "/v1/checkout/sessions/{id}")
def retrieve_session(sim: Simulator, params: Params, id: str) -> Obj:
    """GET /v1/checkout/sessions/{id}."""
    return sim.get("checkout.session", id)


@endpoint("POST", "/v1/checkout/sessions/{id}", "metadata")
def update_session(sim: Simulator, params: Params, id: str) -> Obj:
    """POST /v1/checkout/sessions/{id}."""
    session = sim.get("checkout.session", id)
    session["metadata"] = params.metadata(session["metadata"])
    return session


@endpoint("POST", "/v1/checkout/sessions/{id}/expire")
def expire_session(sim: Simulator, params: Params, id: str) -> Obj:
    """POST /v1/checkout/sessions/{id}/expire."""
    session = sim.get("checkout.session", id)
    if session["status"] != "open":
        raise invalid(
            f'Only Checkout Sessions with a status in ["open"] can be expired. This Checkout Session has a status of '
            f"`{session['status']}`."
        )
    _expire(sim, session)
    return session


@lists("/v1/checkout/sessions", "checkout.session", "customer payment_intent subscription status")
def list_sessions(sim: Simulator, params: Params) -> list[Obj]:
    """GET /v1/checkout/sessions."""
    return sim.find("checkout.session")


@endpoint("GET", "/v1/checkout/sessions/{id}/line_items", "limit starting_after")
def list_lines(sim: Simulator, params: Params, id: str) -> Obj:
    """GET /v1/checkout/sessions/{id}/line_items."""
    return listing(sim.get("checkout.session", id)["_lines"], f"/v1/checkout/sessions/{id}/line_items")


def _customer(sim: Simulator, params: Params) -> Obj | None:
    id = params.text("customer")
    if id and params.text("customer_email"):
        raise invalid("You may only specify one of these parameters: customer, customer_email.")
    if not id and "customer_update" in params:
        raise invalid("`customer_update` can only be used with `customer`.", "customer_update")
    return living_customer(sim, id, "customer") if id else None


def _line(sim: Simulator, given: Params, mode: str) -> Obj:
    given.allow(("price", "price_data", "quantity", "adjustable_quantity", "metadata"))
    quantity = given.integer("quantity", 1) or 0
    if quantity < 1:
        raise invalid("Quantity must be at least 1.", "line_items[quantity]")
    if "price_data" in given:
        price = simulated_catalogue.inline_price(sim, given.nested("price_data"))
    else:
        price = sim.refer("price", given.needed("price"), "line_items[price]")
    if not price["active"]:
        raise invalid(
            "The price specified is inactive. This field only accepts active prices.", "line_items[price]"
        )
    if mode == "payment" and price["recurring"]:
        raise invalid(
            "You specified `payment` mode but passed a recurring price. Either switch to `subscription` mode or use only "
            "one-time prices."
        )
    if mode == "subscription" and not price["recurring"]:
        raise invalid(
            "You must provide at least one recurring price in `subscription` mode when using prices."
        )
    amount = price["unit_amount"] * quantity
    return sim.blank(
        "item",
        amount_discount=0,
        amount_subtotal=amount,
        amount_tax=0,
        amount_total=amount,
        currency=price["currency"],
        description=sim.get("product", price["product"])["name"],
        price=sim.render(price),
        quantity=quantity,
    )


def _check_data(params: Params, mode: str) -> None:
    for name, of in (
        ("payment_intent_data", "payment"),
        ("setup_intent_data", "setup"),
        ("subscription_data", "subscription"),
    ):
        if name in params and mode != of:
            raise invalid(f"You can not pass `{name}` in `{mode}` mode.", name)
    params.nested("automatic_tax").allow(("enabled",))
    if params.nested("automatic_tax").boolean("enabled") and mode == "setup":
        raise invalid("You can not pass `automatic_tax` in `setup` mode.", "automatic_tax")
    params.nested("payment_intent_data").allow(PAYMENT_DATA)
    params.nested("setup_intent_data").allow(("description", "metadata"))
    params.nested("subscription_data").allow(("description", "metadata", "trial_period_days", "billing_mode"))


def _check_tax(session: Obj) -> None:
    """Add the tax of a known address. Raises SimulatedError if there is none and none will be collected."""
    if not session["automatic_tax"]["enabled"]:
        return
    if session["customer"] and session["_update"]["address"] != "auto":
        known = (session["customer_details"] or {}).get("address")
        if country_of(known) is None:
            raise invalid(
                "Automatic tax calculation in Checkout requires a valid address on the Customer. Add a valid address to the "
                "Customer or set either `customer_update[address]` to 'auto' or `customer_update[shipping]` to 'auto' to "
                "save the address entered in Checkout to the Customer.",
                "automatic_tax",
                "customer_tax_location_invalid",
            )
    add_tax(session)


def add_tax(session: Obj) -> None:
    """Set the session's tax and total by the address that is known now."""
    if not session["automatic_tax"]["enabled"]:
        return
    country = country_of((session["customer_details"] or {}).get("address"))
    net = session["amount_subtotal"]
    kind, percentage = tax_name(country)
    tax = tax_of(net, country)
    session["automatic_tax"]["status"] = "complete" if country else "requires_location_inputs"
    rate = {
        "object": "tax_rate",
        "display_name": "Sales tax" if kind == "sales_tax" else kind.upper(),
        "percentage": float(percentage),
        "country": country,
        "inclusive": False,
    }
    taxes = [{"amount": tax, "rate": rate, "taxability_reason": "standard_rated", "taxable_amount": net}]
    session["amount_total"] = net + tax
    session["total_details"] |= {
        "amount_tax": tax,
        "breakdown": {"discounts": [], "taxes": taxes if kind else []},
    }


def _update(params: Params) -> Obj:
    update = params.nested("customer_update")
    update.allow(("address", "name", "shipping"))
    if (
        params.nested("tax_id_collection").boolean("enabled")
        and params.text("customer")
        and update.text("name") != "auto"
    ):
        raise invalid(
            "Tax ID collection requires updating business name on the customer. To enable tax ID collection for an existing "
            "customer, please set `customer_update[name]` to `auto`.",
            "customer_update[name]",
        )
    return {name: update.one_of(name, ("auto", "never"), "never") for name in ("address", "name")}


def _data(params: Params, mode: str) -> Obj:
    name = {
        "payment": "payment_intent_data",
        "setup": "setup_intent_data",
        "subscription": "subscription_data",
    }[mode]
    given = params.nested(name)
    return {**given, "metadata": given.metadata()}


def _details(customer: Obj | None, email: str | None) -> Obj | None:
    if customer is None and email is None:
        return None
    known = customer or {}
    return {
        "address": known.get("address"),
        "business_name": None,
        "email": known.get("email") or email,
        "individual_name": None,
        "name": known.get("name"),
        "phone": known.get("phone"),
        "tax_exempt": "none",
        "tax_ids": [],
    }


# --- submitting the page -----------------------------------------------------------------------------------------------


def pay(sim: Simulator, session: Obj, method: Obj, details: Params) -> None:
    """Submit the page with this payment method. Raises SimulatedError if the card is declined; the session stays open."""
    if session["status"] != "open":
        raise invalid("This Checkout Session is no longer open.")
    if session["expires_at"] <= sim.now():
        _expire(sim, session)
        raise invalid("This Checkout Session has expired.")
    _who(sim, session, details)
    confirm = Params(return_url=f"{sim.url}/checkout/{session['id']}/return", payment_method=method["id"])
    if session["mode"] == "setup":
        _set_up(sim, session, method, confirm)
    elif session["mode"] == "subscription":
        _subscribe(sim, session, method, confirm)
    else:
        _pay_once(sim, session, method, confirm)


def _who(sim: Simulator, session: Obj, form: Params) -> None:
    """The billing details entered on the page: required if the session collects them, and copied to the customer as
    `customer_update` says."""
    known = session["customer_details"] or _details(None, "play@example.org") or {}
    given: Obj = {name: form.text(name) for name in ("email", "name") if form.text(name)}
    if session["billing_address_collection"] == "required":
        missing = [name for name in ("name", "line1", "city", "country") if not form.text(name)]
        if missing and not known.get("address"):
            raise invalid(f"Your billing details are incomplete: {', '.join(missing)}.", missing[0])
    if form.text("line1") and session["billing_address_collection"] == "required":
        given["address"] = address(form)
    tax_id = {"type": form.text("tax_id_type"), "value": form.text("tax_id")}
    if session["tax_id_collection"]["enabled"] and tax_id["value"]:
        if tax_id["type"] not in TAX_ID_TYPES.split():
            raise invalid("Choose the type of your tax id.", "tax_id_type")
        given["tax_ids"] = [tax_id]
    session["customer_details"] = known | given
    add_tax(session)
    if session["automatic_tax"]["enabled"] and session["automatic_tax"]["status"] != "complete":
        raise invalid(NO_LOCATION, "country", "customer_tax_location_invalid")
    if session["customer"] is None and session["customer_creation"] == "always":
        shown = session["customer_details"]
        known = Params({name: shown[name] for name in ("email", "name") if shown[name]})
        session["customer"] = create_customer(sim, known)["id"]


def _keep_details(sim: Simulator, session: Obj) -> None:
    """Copy to the customer what `customer_update` names; tax ids always."""
    if session["customer"] is None:
        return
    customer, shown = sim.get("customer", session["customer"]), session["customer_details"]
    update = session["_update"]
    kept = {name: shown[name] for name in ("name", "address") if update.get(name) == "auto" and shown[name]}
    sim.change(customer, "customer.updated", **kept)
    known = {(each["type"], each["value"]) for each in sim.find("tax_id", customer=customer["id"])}
    for tax_id in shown["tax_ids"]:
        if (tax_id["type"], tax_id["value"]) not in known:
            create_tax_id(sim, Params(tax_id), customer["id"])


def _pay_once(sim: Simulator, session: Obj, method: Obj, confirm: Params) -> None:
    data = Params(session["_data"])
    if session["_pay_intent"]:
        intent = sim.get("payment_intent", session["_pay_intent"])
        intent |= {"payment_method": method["id"], "amount": session["amount_total"]}
    else:
        intent = new_intent(
            sim,
            session["amount_total"],
            session["currency"],
            session["customer"],
            method=method,
            metadata=data["metadata"],
            _session=session["id"],
        )
        intent |= {name: data.text(name) for name in PAYMENT_DATA if name in data and name != "metadata"}
        session["_pay_intent"] = intent["id"]
    confirm_intent(sim, intent, confirm)
    if intent["status"] == "processing":
        complete_session(sim, session, "unpaid")


def _set_up(sim: Simulator, session: Obj, method: Obj, confirm: Params) -> None:
    data = session["_data"]
    if session["setup_intent"]:
        intent = sim.get("setup_intent", session["setup_intent"])
        intent["payment_method"] = method["id"]
    else:
        intent = new_setup(sim, session["customer"], data["metadata"], method=method, _session=session["id"])
        session["setup_intent"] = intent["id"]
    confirm_setup(sim, intent, confirm)
    if intent["status"] == "succeeded":
        complete_session(sim, session, "no_payment_required")


def _subscribe(sim: Simulator, session: Obj, method: Obj, confirm: Params) -> None:
    attach(sim, method, session["customer"])
    if session["automatic_tax"]["enabled"]:
        _keep_details(sim, session)  # the invoice takes the tax of the customer's address
    subscription = simulated_subscriptions.from_checkout(sim, session, method, confirm)
    # a subscription that was paid at once has already completed the session
    if session["status"] == "open" and subscription["status"] in ("active", "trialing"):
        _subscribed(sim, session, subscription)


def _subscribed(sim: Simulator, session: Obj, subscription: Obj) -> None:
    invoice = sim.get("invoice", subscription["latest_invoice"])
    session |= {"subscription": subscription["id"], "invoice": invoice["id"]}
    complete_session(sim, session, "paid" if invoice["amount_paid"] else "no_payment_required")


def complete_session(sim: Simulator, session: Obj, payment_status: str) -> None:
    """Complete the session."""
    session |= {"status": "complete", "payment_status": payment_status, "url": None}
    if session["mode"] == "payment":
        session["payment_intent"] = session["_pay_intent"]
    _keep_details(sim, session)
    sim.emit("checkout.session.completed", session)


def _expire(sim: Simulator, session: Obj) -> None:
    session |= {"status": "expired", "url": None}
    if session["_pay_intent"]:
        session["payment_intent"] = session["_pay_intent"]
        close_intent(sim, sim.get("payment_intent", session["_pay_intent"]), "automatic")
    sim.emit("checkout.session.expired", session)


def _after_payment(sim: Simulator, intent: Obj) -> None:
    """Complete the session of an intent that succeeded, at once or days later."""
    if not (id := intent.get("_session")):
        return
    session = sim.get("checkout.session", id)
    if session["status"] == "open" and intent["status"] == "succeeded":
        if session["mode"] == "subscription":
            _subscribed(sim, session, sim.get("subscription", session["_subscription"]))
        else:
            complete_session(sim, session, "paid")
    elif session["status"] == "complete" and session["payment_status"] == "unpaid":
        worked = intent["status"] == "succeeded"
        if worked:
            session["payment_status"] = "paid"
        sim.emit(f"checkout.session.async_payment_{'succeeded' if worked else 'failed'}", session)


def _due(sim: Simulator) -> list[Due]:
    def later(session: Obj) -> Due:
        return session["expires_at"], lambda: _expire(sim, session)

    return [later(each) for each in sim.objects["checkout.session"].values() if each["status"] == "open"]


AFTER_PAYMENT.append(_after_payment)
SOURCES.append(_due)
