"""The API routes of the Stripe simulator: endpoints register themselves here, with the parameters that they accept."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from views.demo.stripe_simulator.simulated_errors import invalid
from views.demo.stripe_simulator.simulated_params import Params
from views.demo.stripe_simulator.simulated_state import Obj, Simulator, listing

Endpoint = Callable[..., Obj]
PAGES = ("limit", "starting_after", "ending_before")


@dataclass(frozen=True)
class ApiRoute:
    """A route of the API."""

    method: str
    rule: str
    call: Endpoint
    allowed: frozenset[str]


ROUTES: list[ApiRoute] = []


def endpoint(method: str, rule: str, allowed: str = "") -> Callable[[Endpoint], Endpoint]:
    """Register `call(sim, params, **ids)` for a route, with the names of its parameters."""

    def register(call: Endpoint) -> Endpoint:
        ROUTES.append(ApiRoute(method, rule, call, frozenset(allowed.split())))
        return call

    return register


def lists(
    rule: str, kind: str, filters: str = "", *, other: str = ""
) -> Callable[[Callable[..., list[Obj]]], Callable[..., list[Obj]]]:
    """Register `call(sim, params, **ids)`, which returns all objects newest first, as a paginated list. `filters` are
    fields to compare with parameters of the same name, `other` the parameters that the function reads itself; `created` is
    always a filter."""

    def register(call: Callable[..., list[Obj]]) -> Callable[..., list[Obj]]:
        def page(sim: Simulator, params: Params, **ids: str) -> Obj:
            found = [each for each in call(sim, params, **ids) if _matches(each, params, filters.split())]
            return _page(found, params, rule.format(**ids))

        allowed = frozenset((*filters.split(), *other.split(), *PAGES, "created"))
        ROUTES.append(ApiRoute("GET", rule, page, allowed))
        return call

    return register


def _matches(each: Obj, params: Params, filters: list[str]) -> bool:
    for name in filters:
        if name in params and str(_plain(each.get(name))) != params.text(name):
            return False
    created = params.get("created")
    if created is None:
        return True
    bounds = {"eq": created} if isinstance(created, str) else created
    tests: dict[str, Callable[[int, int], bool]] = {
        "eq": lambda a, b: a == b,
        "gt": lambda a, b: a > b,
        "gte": lambda a, b: a >= b,
        "lt": lambda a, b: a < b,
        "lte": lambda a, b: a <= b,
    }
    if not isinstance(bounds, dict) or not bounds.keys() <= tests.keys():
        raise invalid("Invalid created", "created")
    try:
        return all(tests[name](each["created"], int(value)) for name, value in bounds.items())
    except ValueError:
        raise invalid("Invalid timestamp", "created") from None


def _plain(value: Any) -> Any:
    return str(value).lower() if isinstance(value, bool) else value


def _page(found: list[Obj], params: Params, url: str) -> Obj:
    limit = params.integer("limit", 10) or 10
    if not 1 <= limit <= 100:
        raise invalid("Invalid limit: must be between 1 and 100", "limit", "parameter_invalid_integer")
    ids = [each["id"] for each in found]
    if after := params.text("starting_after"):
        if after not in ids:
            raise invalid(f"No such object: '{after}'", "starting_after", "resource_missing")
        found = found[ids.index(after) + 1 :]
    elif before := params.text("ending_before"):
        if before not in ids:
            raise invalid(f"No such object: '{before}'", "ending_before", "resource_missing")
        earlier = found[: ids.index(before)]
        return listing(earlier[-limit:], url, more=len(earlier) > limit)
    return listing(found[:limit], url, more=len(found) > limit)
