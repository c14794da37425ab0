"""A webhook on loopback that keeps what it is sent."""

from collections.abc import Iterator

import pytest
from flask import Flask, request

from tests.server import serving


class KeptWebhook:
    """Answers every delivery with `status`."""

    def __init__(self) -> None:
        self.status = 200
        self.received: list[tuple[bytes, str]] = []
        self.address = ""


@pytest.fixture
def webhook() -> Iterator[KeptWebhook]:
    """A webhook on loopback."""
    kept = KeptWebhook()
    app = Flask("webhook")

    def take() -> tuple[str, int]:
        kept.received.append((request.get_data(), request.headers["Stripe-Signature"]))
        return "", kept.status

    app.add_url_rule("/webhook", "take", take, methods=["POST"])
    with serving(app) as address:
        kept.address = f"{address}/webhook"
        yield kept
