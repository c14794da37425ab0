"""Mail by SMTP, and to the console without a server."""

import logging
import socket
from collections.abc import Iterator
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from models.core.errors import Invalid
from models.core.mail import Email, MailError, deliver, sender
from models.core.settings import Settings, load_settings

MESSAGE = Email(
    to="alice@example.org", subject="Signing in — Stoa", text="Grüße: http://x/y", html="<p>Grüße</p>"
)


class Sink:
    """An SMTP server that records messages; `to_recipient` is its response to RCPT."""

    def __init__(self) -> None:
        self.received: list[EmailMessage] = []
        self.to_recipient = "250 OK"

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: Any
    ) -> str:
        if self.to_recipient.startswith("250"):
            envelope.rcpt_tos.append(address)
        return self.to_recipient

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        assert isinstance(envelope.content, bytes)
        received = message_from_bytes(envelope.content, policy=policy.default)
        assert isinstance(received, EmailMessage)
        self.received.append(received)
        return "250 OK"


@pytest.fixture
def sink() -> Sink:
    return Sink()


@pytest.fixture
def server(sink: Sink) -> Iterator[Controller]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    controller = Controller(sink, hostname="127.0.0.1", port=port)
    controller.start()
    yield controller
    controller.stop()


def _settings(server: Controller | None, login: str = "", **values: Any) -> Settings:
    if server is not None:
        values["smtp_url"] = f"smtp://{login}127.0.0.1:{server.port}"
    return load_settings(_env_file=None, **values)


def test_both_parts_arrive_from_our_address(server: Controller, sink: Sink) -> None:
    deliver(_settings(server, stoa_base_url="https://stoa.example.org"), MESSAGE)
    received = sink.received[0]
    assert received["To"] == "alice@example.org"
    assert received["From"] == "Stoa <no-reply@stoa.example.org>"
    assert received["Subject"] == "Signing in — Stoa"
    assert received["Message-ID"].endswith("@stoa.example.org>")
    text, html = received.get_body(("plain",)), received.get_body(("html",))
    assert text
    assert html
    assert text.get_content().strip() == "Grüße: http://x/y"
    assert html.get_content().strip() == "<p>Grüße</p>"


@pytest.mark.parametrize(
    ("answer", "permanent"), [("550 no such person", True), ("451 come back later", False)]
)
def test_a_rejection_says_whether_a_retry_can_help(
    server: Controller, sink: Sink, answer: str, permanent: bool
) -> None:
    sink.to_recipient = answer
    with pytest.raises(MailError) as refusal:
        deliver(_settings(server), MESSAGE)
    assert refusal.value.permanent is permanent


def test_a_password_is_not_sent_in_the_clear(server: Controller, sink: Sink) -> None:
    with pytest.raises(MailError, match="STARTTLS"):
        deliver(_settings(server, "stoa:hunter2@"), MESSAGE)
    assert sink.received == []


def test_an_unreachable_server_is_not_permanent() -> None:
    with pytest.raises(MailError) as failure:
        deliver(_settings(None, smtp_url="smtp://127.0.0.1:1"), MESSAGE)
    assert not failure.value.permanent


def test_without_a_server_the_text_is_printed(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "stoa.mail"):
        deliver(_settings(None), MESSAGE)
    assert "Grüße: http://x/y" in caplog.text


def test_the_operator_may_name_the_sender() -> None:
    assert sender(_settings(None, stoa_mail_from="Agora <agora@example.org>")) == "Agora <agora@example.org>"


@pytest.mark.parametrize("field", ["to", "subject"])
def test_a_line_break_cannot_add_a_header(field: str) -> None:
    with pytest.raises(Invalid):
        Email(**{"to": "a@example.org", "subject": "s", "text": "t", field: "x\nBcc: eve@example.org"})
