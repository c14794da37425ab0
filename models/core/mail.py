"""Outgoing mail: enqueued in the caller's transaction, delivered by SMTP or printed to the console.

Queued messages are encrypted with the server's secret, because they contain sign-in links.
"""

import json
import logging
import re
import smtplib
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from email import policy
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from typing import Any
from urllib.parse import unquote, urlsplit

from models.core import jobs
from models.core.db import extension
from models.core.errors import Invalid
from models.core.sealing import SealBroken, open_sealed, seal
from models.core.settings import Settings

log = logging.getLogger("stoa.mail")

MAX_LINE = 990  # characters; RFC 5321 allows 998
TIMEOUT = 20  # seconds per response of the mail server


@dataclass(frozen=True)
class Email:
    """A message to one recipient. The door renders `text` and `html` from templates/emails."""

    to: str
    subject: str
    text: str
    html: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    """Further headers, such as `List-Unsubscribe`."""

    def __post_init__(self) -> None:
        if any(ord(char) < 32 for char in "".join((self.to, self.subject, *self.headers.values()))):
            raise Invalid("An e-mail address or subject may not contain control characters.")


def composed(to: str, template: str, values: dict[str, Any], headers: dict[str, str] | None = None) -> Email:
    """An e-mail from `templates/emails/<template>.txt` and `.html`; the first line of the text is the subject.

    The templates also get `host`, `base_url`, `support` and `link(endpoint, ...)`, the URL of a page.
    """
    settings: Settings = extension("settings")
    render: Callable[..., str] = extension("mail_template")
    values = {
        **values,
        "host": settings.base_url.partition("://")[2],
        "base_url": settings.base_url,
        "support": settings.stoa_support_email or None,
    }
    text = re.sub(r"\n{3,}", "\n\n", render(f"emails/{template}.txt", **values))
    return Email(
        to=to,
        subject=text.partition("\n")[0],
        text=text,
        html=render(f"emails/{template}.html", **values),
        headers=headers or {},
    )


def moment_text(time: datetime) -> str:
    """A time as text, as in `29 Nov 2026, 10:00 UTC`."""
    time = time.astimezone(UTC)
    return f"{time.day} {time:%b %Y, %H:%M} UTC"


class MailError(Exception):
    """Delivery failed. `permanent`: retrying cannot help."""

    def __init__(self, message: str, *, permanent: bool) -> None:
        super().__init__(message)
        self.permanent = permanent


def send(settings: Settings, message: Email) -> None:
    """Enqueue the message in the current transaction: it is sent if and only if that commits.

    Delivery is retried for some hours and may happen twice.
    """
    sealed = seal(settings.secret_key, "mail", json.dumps(asdict(message)).encode())
    jobs.enqueue(jobs.deliver_mail, sealed=sealed)


def deliver_sealed(settings: Settings, sealed: str) -> None:
    """Decrypt and deliver a queued message (the job of `send`). Raises MailError."""
    try:
        opened = open_sealed(settings.secret_key, "mail", sealed)
    except SealBroken:
        raise MailError("a queued mail was encrypted with another STOA_SECRET_KEY", permanent=True) from None
    deliver(settings, Email(**json.loads(opened)))


def deliver(settings: Settings, message: Email) -> None:
    """Send immediately, by SMTP_URL or, if unset, to the console. Raises MailError."""
    if settings.smtp_url is None:
        log.info("Mail to %s: %s\n\n%s\n", message.to, message.subject, message.text.strip())
        return
    try:
        with _connected(settings.smtp_url.get_secret_value()) as server:
            server.send_message(_mime(settings, message))
    except smtplib.SMTPRecipientsRefused as error:
        codes = [code for code, _ in error.recipients.values()]
        raise MailError(f"the recipient was refused ({codes})", permanent=min(codes) >= 500) from None
    except smtplib.SMTPResponseException as error:
        text = (
            error.smtp_error.decode(errors="replace")
            if isinstance(error.smtp_error, bytes)
            else error.smtp_error
        )
        if isinstance(error, smtplib.SMTPDataError):
            text = ""  # it may quote the mail
        # Retry after a wrong password: the operator can fix it.
        permanent = error.smtp_code >= 500 and not isinstance(error, smtplib.SMTPAuthenticationError)
        raise MailError(
            f"the mail server answered {error.smtp_code} {text}".strip(), permanent=permanent
        ) from None
    except (smtplib.SMTPException, OSError) as error:
        raise MailError(f"the mail server failed: {error}", permanent=False) from None


def sender(settings: Settings) -> str:
    """The From address."""
    host = urlsplit(settings.base_url).hostname or "localhost"
    return settings.stoa_mail_from or f"Stoa <no-reply@{host}>"


def _mime(settings: Settings, message: Email) -> EmailMessage:
    # the default length folds long URLs in headers into encoded words, which mail clients do not read as URLs
    mime = EmailMessage(policy=policy.default.clone(max_line_length=MAX_LINE))
    mime["From"] = sender(settings)
    mime["To"] = message.to
    mime["Subject"] = message.subject
    mime["Date"] = formatdate()
    mime["Message-ID"] = make_msgid(domain=urlsplit(settings.base_url).hostname or "localhost")
    mime["Auto-Submitted"] = "auto-generated"
    for name, value in message.headers.items():
        mime[name] = value
    mime.set_content(message.text)
    if message.html is not None:
        mime.add_alternative(message.html, subtype="html")
    return mime


@contextmanager
def _connected(url: str) -> Iterator[smtplib.SMTP]:
    parts = urlsplit(url)
    host = parts.hostname or "localhost"
    context = ssl.create_default_context()
    if parts.scheme == "smtps":
        server: smtplib.SMTP = smtplib.SMTP_SSL(host, parts.port or 465, timeout=TIMEOUT, context=context)
    else:
        server = smtplib.SMTP(host, parts.port or 587, timeout=TIMEOUT)
    with server:
        if parts.scheme == "smtp":
            server.ehlo()
            if server.has_extn("starttls"):
                server.starttls(context=context)
            elif parts.username:
                raise MailError(
                    "the mail server does not offer STARTTLS; the password is not sent", permanent=False
                )
        if parts.username:
            server.login(unquote(parts.username), unquote(parts.password or ""))
        yield server
