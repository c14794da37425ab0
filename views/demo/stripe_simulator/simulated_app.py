"""The Flask application of the Stripe simulator: authentication, idempotency keys, responses and errors as Stripe's."""

import json
import secrets
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl

from flask import Flask, Response, request
from jinja2 import StrictUndefined

from models.core.settings import ROOT
from views.demo.stripe_simulator import (
    simulated_charges,
    simulated_checkout,
    simulated_control,
    simulated_customers,
    simulated_dashboard,
    simulated_events,
    simulated_hosted,
    simulated_payments,
    simulated_portal,
    simulated_previews,
    simulated_refunds,
    simulated_schedules,
    simulated_setups,
    simulated_subscriptions,
    simulated_tax,
)
from views.demo.stripe_simulator.simulated_errors import SimulatedError
from views.demo.stripe_simulator.simulated_params import Params, decode
from views.demo.stripe_simulator.simulated_routes import ROUTES, ApiRoute
from views.demo.stripe_simulator.simulated_state import API_VERSION, KEYS_LAST, Obj, Simulator
from views.web import assets

ENDPOINTS = (
    simulated_customers,
    simulated_payments,
    simulated_charges,
    simulated_setups,
    simulated_refunds,
    simulated_checkout,
    simulated_subscriptions,
    simulated_previews,
    simulated_schedules,
    simulated_portal,
    simulated_tax,
    simulated_events,
)
"""The modules that registered the routes."""


def create_simulator(simulator: Simulator) -> Flask:
    """The application of a simulator."""
    app = Flask("stripe_simulator", root_path=str(ROOT), static_folder="static", template_folder="templates")
    app.jinja_env.undefined = StrictUndefined
    assets.init_app(app)
    # fixed paths first, so that /invoices/create_preview is not read as an invoice id
    for route in ROUTES:
        app.add_url_rule(
            _flask_rule(route.rule),
            f"{route.method} {route.rule}",
            _view(simulator, route),
            methods=[route.method],
        )
    app.add_url_rule(
        "/v1/<path:rest>", "unknown", _unknown, methods=["GET", "POST", "DELETE", "PUT", "PATCH"]
    )
    simulated_control.mount(app, simulator)
    simulated_dashboard.mount(app, simulator)
    simulated_hosted.mount(app, simulator)
    simulated_portal.mount(app, simulator)
    app.register_error_handler(SimulatedError, _refuse)
    return app


def _flask_rule(rule: str) -> str:
    return rule.replace("{", "<").replace("}", ">")


def _view(simulator: Simulator, route: ApiRoute) -> Callable[..., Response]:
    def view(**ids: str) -> Response:
        simulated_control.authorised(simulator)
        simulator.url = simulator.url or request.host_url.rstrip("/")
        with simulator.lock:
            fault = _fault(simulator, route)
        if fault and fault["when"] == "before":
            return _broken(fault)
        with simulator.lock:
            answer = _answer(simulator, route, ids)
            if route.method != "GET":
                simulator.save()
        return _broken(fault) if fault else answer

    return view


def _answer(simulator: Simulator, route: ApiRoute, ids: dict[str, str]) -> Response:
    """Store the first response under an idempotency key, and repeat it for the same request."""
    id = f"req_{secrets.token_urlsafe(10)}"
    key = request.headers.get("Idempotency-Key") if route.method != "GET" else None
    request_key = (
        f"{request.method} {request.path} {json.dumps(sorted(parse_qsl(request.get_data(as_text=True))))}"
    )
    kept = simulator.answers.get(key) if key else None
    if kept and kept["at"] <= simulator.now() - KEYS_LAST:
        kept = None
    if kept and kept["asked"] != request_key:
        raise SimulatedError(
            "Keys for idempotent requests can only be used with the same parameters they were first used with. Try using a key "
            f"other than '{key}' if you meant to execute a different request.",
            type="idempotency_error",
        )
    if kept:
        replayed = _json(kept["body"], kept["status"], kept["id"], key)
        replayed.headers["Idempotent-Replayed"] = "true"
        return replayed
    simulator.request = {"id": id, "idempotency_key": key}
    try:
        body, status = _call(simulator, route, ids), 200
    except SimulatedError as error:
        if not error.kept:
            raise
        body, status = error.body, error.status
    finally:
        simulator.request = {"id": None, "idempotency_key": None}
    if key:
        simulator.answers[key] = {
            "asked": request_key,
            "status": status,
            "body": body,
            "id": id,
            "at": simulator.now(),
        }
    return _json(body, status, id, key)


def _call(simulator: Simulator, route: ApiRoute, ids: dict[str, str]) -> Obj:
    pairs: Any = request.args.items(multi=True) if route.method == "GET" else request.form.items(multi=True)
    if route.method == "DELETE":
        pairs = [*request.args.items(multi=True), *request.form.items(multi=True)]
    params: Params = decode(pairs)
    params.allow(route.allowed)
    return simulator.render(route.call(simulator, params, **ids), params.texts("expand"))


def _fault(simulator: Simulator, route: ApiRoute) -> Obj | None:
    """Fail the request if a test has set a fault for its route."""
    for fault in simulator.faults:
        if fault["times"] > 0 and fault["method"] == route.method and fault["rule"] == route.rule:
            fault["times"] -= 1
            return fault
    return None


def _broken(fault: Obj) -> Response:
    if fault.get("seconds"):
        threading.Event().wait(fault["seconds"])
    body = {"error": {"type": "api_error", "message": "An unknown error occurred"}}
    return _json(body, fault["status"], "req_fault", None)


def _json(body: Obj, status: int, id: str, key: str | None) -> Response:
    answer = Response(json.dumps(body, indent=2), status, mimetype="application/json")
    answer.headers["Request-Id"] = id
    answer.headers["Stripe-Version"] = request.headers.get("Stripe-Version", API_VERSION)
    if key:
        answer.headers["Idempotency-Key"] = key
    return answer


def _unknown(rest: str) -> Response:
    raise SimulatedError(f"Unrecognized request URL ({request.method}: /v1/{rest}).", status=404)


def _refuse(error: SimulatedError) -> Response:
    return _json(error.body, error.status, f"req_{secrets.token_urlsafe(10)}", None)
