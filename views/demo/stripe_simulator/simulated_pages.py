"""Shared functions of the hosted pages of the Stripe simulator, which use Stoa's templates and name the play money."""

from typing import Any

from flask import Response, make_response, render_template
from werkzeug import Response as AnyResponse
from werkzeug.utils import redirect

NO_DECIMALS = {"jpy"}


def page(name: str, status: int = 200, **values: Any) -> Response:
    """Render a page, with `no-store`."""
    answer = make_response(render_template(f"demo/{name}.html", **{"error": ""} | values), status)
    answer.headers["Cache-Control"] = "no-store"
    answer.headers["Content-Security-Policy"] = "default-src 'self'; frame-ancestors 'none'"
    return answer


def see_other(address: str) -> AnyResponse:
    """Redirect with GET."""
    return redirect(address, 303)


def money(amount: int, currency: str) -> str:
    """An amount of minor units as text."""
    sign = "−" if amount < 0 else ""
    if currency in NO_DECIMALS:
        return f"{sign}{abs(amount):,} {currency.upper()}"
    if currency == "usd":
        return f"{sign}${abs(amount) / 100:,.2f}"
    return f"{sign}{abs(amount) / 100:,.2f} {currency.upper()}"
