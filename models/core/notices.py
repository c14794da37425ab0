"""E-mails that the domain sends by itself, rendered from one template that the views register."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from models.core import mail
from models.core.mail import Email
from models.core.settings import Settings

TEMPLATE = "emails/notice"

Renderer = Callable[[str, dict[str, Any]], str]

_renderer: Renderer | None = None


@dataclass(frozen=True, slots=True)
class Notice:
    """An e-mail: paragraphs, then facts as (name, value), then a link as (label, URL), then a closing paragraph."""

    subject: str
    paragraphs: tuple[str, ...]
    facts: tuple[tuple[str, str], ...] = ()
    link: tuple[str, str] | None = None
    closing: str = ""


def use_renderer(renderer: Renderer) -> None:
    """Render notices with this function of a template's name and its context. Called when the application is created."""
    global _renderer
    _renderer = renderer


def send_notice(settings: Settings, to: str, notice: Notice) -> None:
    """Enqueue the notice, as text and HTML, in the current transaction: it is sent if and only if that commits."""
    assert _renderer is not None, "views registers the renderer"
    context = asdict(notice)
    text, html = (_renderer(f"{TEMPLATE}.{kind}", context) for kind in ("txt", "html"))
    mail.send(settings, Email(to, notice.subject, text, html))
