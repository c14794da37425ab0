"""Products and prices in the Stripe simulator."""

from views.demo.stripe_simulator.simulated_errors import SimulatedError, invalid
from views.demo.stripe_simulator.simulated_params import Params
from views.demo.stripe_simulator.simulated_payments import LARGEST, SMALLEST
from views.demo.stripe_simulator.simulated_routes import endpoint, lists
from views.demo.stripe_simulator.simulated_state import Obj, Simulator

INTERVALS = ("day", "week", "month", "year")
PRODUCT = (
    "active description images marketing_features metadata name statement_descriptor tax_code unit_label url"
)
PRICE = (
    "active currency lookup_key metadata nickname product product_data recurring tax_behavior transfer_lookup_key"
    " unit_amount"
)


@endpoint("POST", "/v1/products", f"{PRODUCT} id default_price_data")
def create_product(sim: Simulator, params: Params) -> Obj:
    """POST /v1/products."""
    id = params.text("id")
    if id and id in sim.objects["product"]:
        raise SimulatedError("Product already exists.", code="resource_already_exists", param="id")
    product = sim.blank(
        "product",
        active=True,
        images=[],
        marketing_features=[],
        metadata={},
        name=params.needed("name"),
        type="service",
        updated=sim.now(),
    )
    product["id"] = id or product["id"]
    sim.objects["product"][product["id"]] = product
    product |= _product_fields(product, params)
    if "default_price_data" in params:
        given = Params(params.nested("default_price_data") | {"product": product["id"]})
        product["default_price"] = create_price(sim, given)["id"]
    sim.emit("product.created", product)
    return product


@endpoint("GET", "/v1/products/{id}")
def retrieve_product(sim: Simulator, params: Params, id: str) -> Obj:
    """GET /v1/products/{id}."""
    return sim.get("product", id)


@endpoint("POST", "/v1/products/{id}", f"{PRODUCT} default_price")
def update_product(sim: Simulator, params: Params, id: str) -> Obj:
    """POST /v1/products/{id}."""
    product = sim.get("product", id)
    changed = _product_fields(product, params)
    if "default_price" in params:
        changed["default_price"] = sim.refer("price", params.needed("default_price"), "default_price")["id"]
    sim.change(product, "product.updated", **changed)
    product["updated"] = sim.now()
    return product


@endpoint("DELETE", "/v1/products/{id}")
def delete_product(sim: Simulator, params: Params, id: str) -> Obj:
    """DELETE /v1/products/{id}, while it has no prices."""
    product = sim.get("product", id)
    if sim.find("price", product=id):
        raise invalid("This product cannot be deleted because it has one or more user-created prices.")
    del sim.objects["product"][id]
    sim.emit("product.deleted", product)
    return {"id": id, "object": "product", "deleted": True}


@lists("/v1/products", "product", "active", other="ids")
def list_products(sim: Simulator, params: Params) -> list[Obj]:
    """GET /v1/products."""
    ids = params.texts("ids")
    return [each for each in sim.find("product") if not ids or each["id"] in ids]


@endpoint("POST", "/v1/prices", PRICE)
def create_price(sim: Simulator, params: Params) -> Obj:
    """POST /v1/prices."""
    if "product_data" in params:
        given = params.nested("product_data")
        given.allow(("active", "id", "metadata", "name", "statement_descriptor", "tax_code", "unit_label"))
        product = create_product(sim, given)
    else:
        product = sim.refer("product", params.needed("product"), "product")
    price = _new_price(sim, params, product["id"])
    key = params.text("lookup_key")
    for other in sim.find("price", lookup_key=key) if key else []:
        if not params.boolean("transfer_lookup_key"):
            raise invalid(
                "A price (" + other["id"] + ") already uses that lookup key.",
                "lookup_key",
                "resource_already_exists",
            )
        other["lookup_key"] = None
    price |= {
        "active": params.boolean("active", True),
        "lookup_key": key,
        "metadata": params.metadata(),
        "nickname": params.text("nickname"),
    }
    sim.emit("price.created", price)
    return price


@endpoint("GET", "/v1/prices/{id}")
def retrieve_price(sim: Simulator, params: Params, id: str) -> Obj:
    """GET /v1/prices/{id}."""
    return sim.get("price", id)


@endpoint("POST", "/v1/prices/{id}", "active lookup_key metadata nickname tax_behavior transfer_lookup_key")
def update_price(sim: Simulator, params: Params, id: str) -> Obj:
    """POST /v1/prices/{id}. The amount cannot change."""
    price = sim.get("price", id)
    changed: Obj = {
        name: params.text(name) for name in ("lookup_key", "nickname", "tax_behavior") if name in params
    }
    if "active" in params:
        changed["active"] = params.boolean("active")
    if "metadata" in params:
        changed["metadata"] = params.metadata(price["metadata"])
    sim.change(price, "price.updated", **changed)
    return price


@lists("/v1/prices", "price", "active product type currency", other="lookup_keys recurring")
def list_prices(sim: Simulator, params: Params) -> list[Obj]:
    """GET /v1/prices."""
    keys = params.texts("lookup_keys")
    return [each for each in sim.find("price") if not keys or each["lookup_key"] in keys]


def inline_price(sim: Simulator, given: Params) -> Obj:
    """The price in `price_data` of a request; creates its product if the request has `product_data`."""
    given.allow(("currency", "product", "product_data", "recurring", "tax_behavior", "unit_amount"))
    if "product_data" in given:
        data = given.nested("product_data")
        data.allow(("description", "images", "metadata", "name", "tax_code", "unit_label"))
        product = create_product(sim, data)
        product["active"] = False
    else:
        product = sim.refer("product", given.needed("product"), "price_data[product]")
    return _new_price(sim, given, product["id"])


def _new_price(sim: Simulator, params: Params, product: str) -> Obj:
    currency = params.needed("currency").lower()
    if currency not in SMALLEST:
        raise invalid(f"Invalid currency: {currency}.", "currency")
    amount = params.needed_integer("unit_amount")
    if not 0 <= amount <= LARGEST:
        raise invalid("Invalid non-negative integer", "unit_amount", "parameter_invalid_integer")
    recurring: Obj | None = None
    if "recurring" in params:
        given = params.nested("recurring")
        given.allow(("interval", "interval_count", "usage_type"))
        interval = given.needed("interval")
        if interval not in INTERVALS:
            raise invalid(
                "Invalid recurring[interval]: must be one of day, month, week, or year", "recurring[interval]"
            )
        recurring = {
            "interval": interval,
            "interval_count": given.integer("interval_count", 1),
            "meter": None,
            "trial_period_days": None,
            "usage_type": "licensed",
        }
    return sim.add(
        "price",
        active=True,
        billing_scheme="per_unit",
        currency=currency,
        metadata={},
        product=product,
        recurring=recurring,
        tax_behavior=params.text("tax_behavior") or "unspecified",
        type="recurring" if recurring else "one_time",
        unit_amount=amount,
        unit_amount_decimal=str(amount),
    )


def _product_fields(product: Obj, params: Params) -> Obj:
    names = ("description", "name", "statement_descriptor", "tax_code", "unit_label", "url")
    changed: Obj = {name: params.text(name) for name in names if name in params}
    if "active" in params:
        changed["active"] = params.boolean("active")
    if "images" in params:
        changed["images"] = params.texts("images")
    if "marketing_features" in params:
        changed["marketing_features"] = [
            {"name": each.text("name")} for each in params.each("marketing_features")
        ]
    if "metadata" in params:
        changed["metadata"] = params.metadata(product["metadata"])
    return changed
