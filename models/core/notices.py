"""E-mails that the domain sends by itself, rendered from one template."""

from collections.abc import Callable
from dataclasses import asdict, dataclass

from models.core import mail
from models.core.db import extension
from models.core.mail import Email
from models.core.settings import Settings

TEMPLATE = "emails/notice"


@dataclass(frozen=True, slots=True)
class Notice:
    """An e-mail: paragraphs, then facts as (name, value), then an action as (label, URL), then a closing paragraph."""

    subject: str
    paragraphs: tuple[str, ...]
    facts: tuple[tuple[str, str], ...] = ()
    action: tuple[str, str] | None = None
    closing: str = ""


def send_notice(settings: Settings, to: str, notice: Notice) -> None:
    """Enqueue the notice, as text and HTML, in the current transaction: it is sent if and only if that commits."""
    render: Callable[..., str] = extension("mail_template")
    text, html = (render(f"{TEMPLATE}.{kind}", **asdict(notice)) for kind in ("txt", "html"))
    mail.send(settings, Email(to, notice.subject, text, html))
