"""The test cards of the Stripe simulator: Stripe's test numbers and their behaviour."""

import hashlib
from dataclasses import dataclass

MESSAGES = {
    "card_declined": "Your card was declined.",
    "insufficient_funds": "Your card has insufficient funds.",
    "expired_card": "Your card has expired.",
    "incorrect_cvc": "Your card's security code is incorrect.",
    "processing_error": "An error occurred while processing your card. Try again in a little bit.",
    "authentication_required": "Your card was declined. This transaction requires authentication.",
    "payment_intent_authentication_failure": (
        "The provided PaymentMethod has failed authentication. You can provide payment_method_data or a new PaymentMethod "
        "to attempt to fulfill this PaymentIntent again."
    ),
}
"""Messages for the cardholder, by error code or decline code."""
PLAIN_CODES = {"expired_card", "incorrect_cvc", "processing_error", "authentication_required"}
"""Decline codes that are also error codes; all others have the error code `card_declined`."""
NOT_AGAIN = {"lost_card", "stolen_card", "fraudulent", "pickup_card", "expired_card"}


@dataclass(frozen=True)
class PlayCard:
    """A card and its behaviour."""

    kind: str
    """Its name in this simulator."""
    number: str
    stripe_name: str
    """The suffix of Stripe's test ids `pm_card_...` and `tok_...`."""
    title: str
    decline_code: str = ""
    refuses_to_be_saved: bool = False
    authentication: str = "never"
    """`never`, `always`, or `setup`: unless it was authenticated when it was saved."""
    dispute: str = ""
    """The reason of a dispute that each payment gets at once; `inquiry`: one that withdraws no money."""
    warns_of_fraud: bool = False
    refund: str = "succeeded"
    expired: bool = False
    delayed: bool = False
    """The payment succeeds days later, as a bank debit."""
    brand: str = "visa"

    @property
    def last4(self) -> str:
        """The last four digits."""
        return self.number[-4:]

    @property
    def fingerprint(self) -> str:
        """The same for the same number, as at Stripe."""
        return hashlib.sha256(self.number.encode()).hexdigest()[:16]


CARDS = [
    PlayCard("visa", "4242424242424242", "visa", "Visa, pays"),
    PlayCard("mastercard", "5555555555554444", "mastercard", "Mastercard, pays", brand="mastercard"),
    PlayCard("amex", "378282246310005", "amex", "American Express, pays", brand="amex"),
    PlayCard(
        "declined", "4000000000000341", "chargeCustomerFail", "Can be saved, then declines", "generic_decline"
    ),
    PlayCard("generic_decline", "4000000000000002", "chargeDeclined", "Declines", "generic_decline", True),
    PlayCard(
        "insufficient_funds",
        "4000000000009995",
        "chargeDeclinedInsufficientFunds",
        "Declines: insufficient funds",
        "insufficient_funds",
        True,
    ),
    PlayCard(
        "lost_card", "4000000000009987", "chargeDeclinedLostCard", "Declines: lost card", "lost_card", True
    ),
    PlayCard(
        "stolen_card",
        "4000000000009979",
        "chargeDeclinedStolenCard",
        "Declines: stolen card",
        "stolen_card",
        True,
    ),
    PlayCard(
        "expired_card",
        "4000000000000069",
        "chargeDeclinedExpiredCard",
        "Declines: expired",
        "expired_card",
        True,
    ),
    PlayCard(
        "incorrect_cvc",
        "4000000000000127",
        "chargeDeclinedIncorrectCvc",
        "Declines: wrong code",
        "incorrect_cvc",
        True,
    ),
    PlayCard(
        "processing_error",
        "4000000000000119",
        "chargeDeclinedProcessingError",
        "Declines: processing error",
        "processing_error",
        True,
    ),
    PlayCard(
        "card_velocity_exceeded",
        "4000000000006975",
        "chargeDeclinedVelocityLimitExceeded",
        "Declines: used too often",
        "card_velocity_exceeded",
        True,
    ),
    PlayCard(
        "authentication_required",
        "4000002760003184",
        "authenticationRequired",
        "Asks for confirmation each time (3D Secure)",
        authentication="always",
    ),
    PlayCard(
        "authentication_on_setup",
        "4000002500003155",
        "authenticationRequiredOnSetup",
        "Asks for confirmation once (3D Secure)",
        authentication="setup",
    ),
    PlayCard(
        "three_d_secure",
        "4000000000003220",
        "threeDSecure2Required",
        "Asks for confirmation each time (3D Secure 2)",
        authentication="always",
    ),
    PlayCard(
        "authenticated_decline",
        "4000008260003178",
        "authenticationRequiredChargeDeclinedInsufficientFunds",
        "Asks for confirmation, then declines",
        "insufficient_funds",
        authentication="always",
    ),
    PlayCard("dispute", "4000000000000259", "createDispute", "Pays, then disputes", dispute="fraudulent"),
    PlayCard(
        "dispute_not_received",
        "4000000000002685",
        "createDisputeProductNotReceived",
        "Pays, then disputes: not received",
        dispute="product_not_received",
    ),
    PlayCard("inquiry", "4000000000001976", "createDisputeInquiry", "Pays, then inquires", dispute="inquiry"),
    PlayCard(
        "fraud_warning",
        "4000000000005423",
        "createIssuerFraudRecord",
        "Pays, then warns of fraud",
        warns_of_fraud=True,
    ),
    PlayCard("refund_fails", "4000000000005126", "refundFail", "Pays; refunds fail later", refund="failed"),
    PlayCard("refund_pending", "4000000000007726", "pendingRefund", "Pays; refunds wait", refund="pending"),
    PlayCard("blocked", "4100000000000019", "radarBlock", "Is blocked as fraud", "fraudulent", True),
    PlayCard("expired", "4000000000000077", "expired", "Saved, and past its last month", expired=True),
    PlayCard("bank", "000123456789", "sepa", "Pays days later (bank debit)", delayed=True, brand="unknown"),
    PlayCard("link", "link", "link", "Link, pays"),
]
GROUPS = {
    "Pays": [
        card
        for card in CARDS
        if not card.decline_code and card.authentication == "never" and not card.expired
    ],
    "Asks for confirmation": [card for card in CARDS if card.authentication != "never"],
    "Is declined": [
        card for card in CARDS if card.authentication == "never" and (card.decline_code or card.expired)
    ],
}
"""Cards by group, for the list on the pages."""
BY_KIND = {card.kind: card for card in CARDS}
BY_NUMBER = {card.number: card for card in CARDS}
BY_STRIPE_NAME = {card.stripe_name: card for card in CARDS}


def by_test_id(id: str) -> PlayCard | None:
    """The card of `pm_card_visa`, `tok_visa_chargeDeclined` and the like."""
    for beginning in ("pm_card_", "tok_"):
        if id.startswith(beginning):
            name = id.removeprefix(beginning)
            return BY_STRIPE_NAME.get(name) or BY_STRIPE_NAME.get(name.removeprefix("visa_"))
    return None


def message(code: str, decline_code: str | None) -> str:
    """The message for the cardholder."""
    return MESSAGES.get(decline_code or "") or MESSAGES.get(code) or MESSAGES["card_declined"]
