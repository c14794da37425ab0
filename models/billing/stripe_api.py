"""The one way to Stripe: a client of its library for the process, made from the settings, and what its failures mean here.

No transaction is open while Stripe is asked: commit what was written, ask, then begin a new one.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from models.core.errors import DomainError
from models.core.settings import Settings

if TYPE_CHECKING:  # imported where it is used: 27 MB of each worker that a server without payments saves
    from stripe import StripeClient

log = logging.getLogger("stoa.billing")

API_VERSION = "2026-10-28.endive"
TIMEOUT = 10.0
"""Seconds for each answer of Stripe."""
RETRIES = 2

_settings: Settings | None = None
_client: "StripeClient | None" = None


class BillingDisabled(DomainError):
    """This server has no Stripe key and sells nothing."""

    status = 503
    code = "billing_disabled"

    def __init__(self) -> None:
        super().__init__("This server takes no payments. Ask its operator for credits.")


class StripeError(DomainError):
    """Stripe refused, or did not answer. `unknown`: nobody can say whether Stripe did what it was asked."""

    status = 500
    code = "stripe_error"

    def __init__(self, message: str, *, unknown: bool) -> None:
        super().__init__(message)
        self.unknown = unknown


def configure(settings: Settings) -> None:
    """Use these settings from now on, in the whole process. Called once, when the application is made."""
    global _settings, _client
    _settings, _client = settings, None
    if settings.stripe_key is None:
        return
    import stripe

    stripe.enable_telemetry = False
    _client = stripe.StripeClient(
        settings.stripe_key,
        stripe_version=API_VERSION,
        base_addresses={"api": settings.stripe_api_base},
        http_client=stripe.RequestsClient(timeout=TIMEOUT),
        max_network_retries=RETRIES,
    )


def enabled() -> bool:
    """Whether this server sells anything."""
    return _client is not None


def test_mode() -> bool:
    """Whether no real money moves: with a key for tests."""
    key = _settings.stripe_key if _settings else None
    return key is not None and "_live_" not in key


def billing_settings() -> Settings:
    """The settings in use. Raises BillingDisabled."""
    if _settings is None or _client is None:
        raise BillingDisabled
    return _settings


def client() -> "StripeClient":
    """The client. Raises BillingDisabled."""
    if _client is None:
        raise BillingDisabled
    return _client


@contextmanager
def asking() -> "Iterator[StripeClient]":
    """Ask Stripe something: gives the client, and turns what goes wrong into StripeError, but for declined cards
    (stripe.CardError), which the caller expects."""
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
        # their words quote the key
        log.error("Stripe refuses the key of this server (%s)", error.code)
        raise StripeError(
            "Stripe refuses this server's key. Tell the operator of this server.", unknown=False
        ) from error
    except stripe.StripeError as error:
        log.warning("Stripe refused: %s (%s)", error.user_message, error.code)
        raise StripeError(error.user_message or "Stripe refused the request.", unknown=False) from error


def missing(error: StripeError) -> bool:
    """Whether Stripe says that the thing asked for does not exist."""
    return getattr(error.__cause__, "code", None) == "resource_missing"


def plain(thing: Any) -> dict[str, Any]:
    """An object of the library as a dictionary, expanded objects within included."""
    found: dict[str, Any] = thing.to_dict()
    return found


def id_of(reference: Any) -> str | None:
    """The id of a reference, whether it was expanded or not."""
    if isinstance(reference, dict):
        return str(reference["id"])
    return None if reference is None else str(reference)
