"""The page that publishes one definition, pasted or uploaded as JSON, and checks it while it is typed."""

import json
from dataclasses import dataclass, field
from typing import Any

from flask import Blueprint, request
from flask.typing import ResponseReturnValue

from models.core.db import db, now
from models.store import Publisher, publishers
from models.store.publishing import publish as publishing_publish
from models.store.publishing import validation
from models.store.publishing.definition import Definition
from models.store.publishing.publish import PublishRefused
from views.store.pages.agent import agent_address
from views.web.body import BadJson, parse_text
from views.web.guards import audit, caller_account, limiter, login_required, require_cookie_user, settings
from views.web.htmx import render, see_other, toast

bp = Blueprint("publish_form", __name__)

FORM = "/publishers/<publisher_id>/publish"


@dataclass(frozen=True)
class CheckedDefinition:
    """The text of the form, and either its definition or its problems; neither for an empty text."""

    text: str
    definition: Definition | None = None
    problems: list[str] = field(default_factory=list)


@bp.get(FORM)
@login_required
def new(publisher_id: str) -> ResponseReturnValue:
    """Show the form, with the command that publishes a folder."""
    return _form(publishers.accessible(require_cookie_user(), publisher_id), CheckedDefinition(""))


@bp.post(f"{FORM}/check")
@limiter.limit("120/minute", key_func=caller_account)
@login_required
def check(publisher_id: str) -> ResponseReturnValue:
    """Check the definition without publishing it; htmx receives the result only."""
    publisher = publishers.accessible(require_cookie_user(), publisher_id)
    checked = _read(publisher)
    return render(
        "store/publish.html", partial="store/_publish_check.html", publisher=publisher, checked=checked
    )


@bp.post(FORM)
@limiter.limit("60/hour", key_func=caller_account)
@login_required
def publish(publisher_id: str) -> ResponseReturnValue:
    """Publish the definition; one with problems answers 422 with the form, its text kept."""
    user, arrived = require_cookie_user(), now()
    checked = _read(publishers.accessible(user, publisher_id))
    problem = None if checked.problems or checked.definition else "Paste a definition or choose a file."
    if checked.definition:
        try:
            (published,) = publishing_publish.publish(
                [checked.definition], by=user, credential="web", arrived=arrived, limits=settings()
            )
        except PublishRefused as refused:
            db.session.rollback()
            problem = ". ".join(filter(None, (refused.details, refused.hint)))
        else:
            audit("agent.published", str(published), user=user, after={"credential": "web"})
            db.session.commit()
            toast(f"Published {published}")
            return see_other(agent_address(str(published)))
    if problem:
        checked = CheckedDefinition(checked.text, problems=[problem])
    return _form(publishers.accessible(require_cookie_user(), publisher_id), checked)


def _read(publisher: Publisher) -> CheckedDefinition:
    """The file of the form if there is one, else its text, checked as the API checks it. Its publisher may be left out."""
    sent = request.files.get("file")
    text = sent.read().decode(errors="replace") if sent else request.form.get("definition", "")
    if not text.strip():
        return CheckedDefinition("")
    try:
        raw = parse_text(text)
    except BadJson as error:
        return CheckedDefinition(text, problems=[f"This is not JSON that can be published: {error}"])
    if isinstance(raw, dict) and raw.setdefault("publisher", publisher.id) != publisher.id:
        return CheckedDefinition(text, problems=[f"publisher: must be {publisher.id}, or left out"])
    found = validation.check({"the text": raw})
    if found.problems:
        return CheckedDefinition(
            text, problems=[line for each in found.problems for line in _lines(each.message)]
        )
    return CheckedDefinition(text, found.definitions[0])


def _lines(message: str) -> list[str]:
    """A problem of the API in lines: `model: Invalid input`."""
    _, schema, issues = message.partition(validation.PREFIX)
    if not schema:
        return [message]
    try:
        found: list[dict[str, Any]] = json.loads(issues)
    except ValueError:
        return [issues]
    return [
        f"{'.'.join(map(str, each['path'])) or 'definition'}: {_plain(each['message'])}" for each in found
    ]


def _plain(message: str) -> str:
    return "required" if message.endswith("received undefined") else message


def _form(publisher: Publisher, checked: CheckedDefinition) -> ResponseReturnValue:
    return render(
        "store/publish.html",
        partial="store/_publish_form.html",
        status=422 if checked.problems else 200,
        publisher=publisher,
        checked=checked,
    )
