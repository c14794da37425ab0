"""What follows a declined automatic top-up, by decline code: no retry with this card, a later retry, or a confirmation."""

from datetime import datetime, timedelta

CONFIRMATION_CODES = frozenset({"authentication_required", "payment_intent_authentication_failure"})

PERMANENT_CODES = frozenset(
    {
        *("lost_card", "stolen_card", "pickup_card", "restricted_card", "fraudulent", "merchant_blacklist"),
        *(
            "expired_card",
            "incorrect_number",
            "invalid_number",
            "invalid_account",
            "incorrect_cvc",
            "invalid_cvc",
        ),
        *("invalid_expiry_month", "invalid_expiry_year", "new_account_information_available"),
        *("card_not_supported", "currency_not_supported", "transaction_not_allowed", "not_permitted"),
        *("service_not_allowed", "security_violation", "revocation_of_authorization"),
        *("revocation_of_all_authorizations", "stop_payment_order", "no_action_taken", "do_not_try_again"),
        *("pin_try_exceeded", "allowable_pin_tries_exceeded", "testmode_decline", "live_mode_test_card"),
        *(
            "payment_method_provider_decline",
            "payment_method_invalid_parameter",
            "payment_method_unactivated",
        ),
    }
)
"""Decline codes after which Stripe and the card networks ask not to try the same card again."""

BRIEF_CODES = frozenset(
    {"processing_error", "issuer_not_available", "reenter_transaction", "tax", "try_again_later"}
)
"""Temporary problems of the bank, and `tax`: the tax could not be added, so the card was not charged."""

BRIEF_DELAYS = (timedelta(minutes=10), timedelta(hours=1), timedelta(hours=6), timedelta(days=1))
DELAYS = (timedelta(hours=6), timedelta(days=1), timedelta(days=3), timedelta(days=7))
STRIPE_DELAYS = (timedelta(minutes=2), timedelta(minutes=10), timedelta(hours=1))
"""Delays while Stripe does not answer."""


def retry_after(code: str, failures: int, now: datetime) -> datetime | None:
    """When a card may be charged again after its `failures`-th decline in a row (from 1); None: never.

    An unknown code has the delays of `insufficient_funds`.
    """
    if code in PERMANENT_CODES:
        return None
    return now + delay(BRIEF_DELAYS if code in BRIEF_CODES else DELAYS, failures)


def delay(delays: tuple[timedelta, ...], failures: int) -> timedelta:
    """The delay after the `failures`-th failure in a row (from 1); the last one repeats."""
    return delays[min(failures, len(delays)) - 1]
