"""Access to Stripe: one client of its library per application, created from the settings, and our errors for its errors.

No transaction is open during a request to Stripe: commit what was written, send the request, then begin a new one.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from models.core.db import extension
from models.core.errors import DomainError
from models.core.settings import Settings

if TYPE_CHECKING:  # imported where it is used: saves 27 MB per worker on a server without payments
    from stripe import StripeClient

log = logging.getLogger("stoa.billing")

API_VERSION = "2026-10-28.endive"
TIMEOUT = 10.0
"""Timeout of a request, in seconds."""
RETRIES = 2


@dataclass(frozen=True)
class StripeAccess:
    """The settings and the Stripe client of an application."""

    settings: Settings
    client: "StripeClient"


class BillingDisabled(DomainError):
    """This server has no Stripe key, so it sells no credits."""

    status = 503
    code = "billing_disabled"

    def __init__(self) -> None:
        super().__init__("This server takes no payments. Ask its operator for credits.")


class StripeError(DomainError):
    """Stripe rejected a request or did not answer. `unknown`: the request may have succeeded."""

    status = 500
    code = "stripe_error"

    def __init__(self, message: str, *, unknown: bool) -> None:
        super().__init__(message)
        self.unknown = unknown


def connect(settings: Settings) -> StripeAccess | None:
    """The client for these settings, or None without a key. An application keeps it as its extension "stripe"."""
    if settings.stripe_key is None:
        return None
    import stripe

    stripe.enable_telemetry = False
    client = stripe.StripeClient(
        settings.stripe_key,
        stripe_version=API_VERSION,
        base_addresses={"api": settings.stripe_api_base},
        http_client=stripe.RequestsClient(timeout=TIMEOUT),
        max_network_retries=RETRIES,
    )
    return StripeAccess(settings, client)


def enabled() -> bool:
    """Whether this server sells credits."""
    return extension("stripe") is not None


def test_mode() -> bool:
    """Whether the key is a test key, so no real money moves."""
    return enabled() and "_live_" not in (_access().settings.stripe_key or "")


def billing_settings() -> Settings:
    """The settings in use. Raises BillingDisabled."""
    return _access().settings


def client() -> "StripeClient":
    """The client. Raises BillingDisabled."""
    return _access().client


def _access() -> StripeAccess:
    access: StripeAccess | None = extension("stripe")
    if access is None:
        raise BillingDisabled
    return access


@contextmanager
def api_client() -> "Iterator[StripeClient]":
    """Yield the client for requests to Stripe, and turn the library's errors into StripeError, except those of declined
    cards (stripe.CardError), which callers handle."""
    found = client()
    import stripe

    try:
        yield found
    except stripe.CardError:
        raise
    except (stripe.APIConnectionError, stripe.APIError) as error:
        log.warning("Stripe did not answer: %s", type(error).__name__)
        raise StripeError("Stripe did not answer. Try again in a minute.", unknown=True) from error
    except (stripe.AuthenticationError, stripe.PermissionError) as error:
        # their messages quote the key
        log.error("Stripe rejects the key of this server (%s)", error.code)
        raise StripeError(
            "Stripe rejects this server's key. Contact the operator of this server.", unknown=False
        ) from error
    except stripe.StripeError as error:
        log.warning("Stripe rejected a request: %s (%s)", error.user_message, error.code)
        raise StripeError(error.user_message or "Stripe rejected the request.", unknown=False) from error


def missing(error: StripeError) -> bool:
    """Whether the error says that the requested object does not exist."""
    return getattr(error.__cause__, "code", None) == "resource_missing"


def plain(stripe_object: Any) -> dict[str, Any]:
    """An object of the library as a dictionary, with the expanded objects in it."""
    found: dict[str, Any] = stripe_object.to_dict()
    return found


def id_of(reference: Any) -> str | None:
    """The id of a reference, whether it was expanded or not."""
    if isinstance(reference, dict):
        return str(reference["id"])
    return None if reference is None else str(reference)
