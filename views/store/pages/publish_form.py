"""The page that publishes one definition, pasted or uploaded as JSON or TypeScript, and checks it while it is typed."""

import json
import re
from dataclasses import dataclass, field, replace
from typing import Any

from flask import Blueprint, request
from flask.typing import ResponseReturnValue

from models.core.db import db, now
from models.store import Publisher, publishers
from models.store.publishing import licences, typescript_reader, validation
from models.store.publishing import publish as publishing_publish
from models.store.publishing.definition import Definition
from models.store.publishing.publish import PublishRefused
from models.store.publishing.typescript_reader import TypeScriptProblem
from views.store.pages.agent import agent_address
from views.web.body import BadJson, parse_text
from views.web.guards import audit, caller_account, limiter, login_required, require_cookie_user, settings
from views.web.htmx import render, see_other, toast

bp = Blueprint("publish_form", __name__)

FORM = "/publishers/<publisher_id>/publish"
TYPESCRIPT_NAMES = (".ts", ".mts", ".cts", ".js", ".mjs")
MODULE = re.compile(r"\s*(?:import|export|const|type|interface|async|function|//|/\*)")
"""How a module begins; JSON begins otherwise."""
FIELDS = ("license", "changelog")
"""Fields of the form that go into the definition, before its own."""


@dataclass(frozen=True)
class CheckedDefinition:
    """The text of the form, its other fields, and either its definition or its problems; neither for an empty text."""

    text: str
    definition: Definition | None = None
    problems: list[str] = field(default_factory=list)
    fields: dict[str, str] = field(default_factory=dict)

    @property
    def license_is_spdx(self) -> bool:
        """Whether the licence of the definition is an SPDX expression."""
        return bool(self.definition and self.definition.license and licences.spdx(self.definition.license))


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
        checked = replace(checked, definition=None, problems=[problem])
    return _form(publishers.accessible(require_cookie_user(), publisher_id), checked)


def _read(publisher: Publisher) -> CheckedDefinition:
    """The file of the form if there is one, else its text, checked as the API checks it. Its publisher may be left out."""
    sent = request.files.get("file")
    text = sent.read().decode(errors="replace") if sent else request.form.get("definition", "")
    fields = {name: value for name in FIELDS if (value := request.form.get(name, "").strip())}
    checked = CheckedDefinition(text, fields=fields)
    if not text.strip():
        return checked
    try:
        raw = _parsed(text, (sent.filename or "") if sent else "")
    except BadJson as error:
        return replace(checked, problems=[f"This is not JSON that can be published: {error}"])
    except TypeScriptProblem as error:
        return replace(checked, problems=[str(error)])
    if isinstance(raw, dict):
        raw |= fields
        if raw.setdefault("publisher", publisher.id) != publisher.id:
            return replace(checked, problems=[f"publisher: must be {publisher.id}, or left out"])
    found = validation.check({"the text": raw})
    if found.problems:
        return replace(checked, problems=[line for each in found.problems for line in _lines(each.message)])
    return replace(checked, definition=found.definitions[0])


def _parsed(text: str, filename: str) -> Any:
    if filename.lower().endswith(TYPESCRIPT_NAMES) or (not filename and MODULE.match(text)):
        return typescript_reader.read(text)
    return parse_text(text)


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
