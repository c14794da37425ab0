"""Forms act once: each carries a random token, and a repetition of a submission gets the response of the first.

A double click, a resubmitted page and two submissions at once make one key, one publisher, one grant. The claim is part of the
change's transaction; a submission that was rejected (4xx) may be corrected and sent again. A response may contain a secret that
is shown once: it is encrypted (`models/core/sealing.py`), and kept for five minutes for the session that sent the form.
"""

import hashlib
import json
import logging
import secrets
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from flask import Flask, Response, g, request, session
from flask.typing import ResponseReturnValue
from sqlalchemy.exc import SQLAlchemyError

from models.core import form_submissions
from models.core.db import db, now
from models.core.errors import Conflict
from models.core.form_submissions import RESPONSE_KEPT, FormSubmission
from models.core.sealing import SealBroken, open_sealed, seal
from views.web import format
from views.web.guards import JSON_DOORS, KEY_DOORS, SAFE, SIGNED_LINKS, cookie_credential, settings
from views.web.htmx import see_other, wants_fragment

log = logging.getLogger("stoa.forms")

FIELD = "form_token"
HIDDEN_FIELDS = frozenset({"csrf_token", FIELD})
"""Fields of every form that are no input of the user."""

ONCE = frozenset(
    {
        *("accounts.add_passkey", "accounts.create_key", "accounts.rotate_key"),
        *("assistants.add_assistant", "assistants.add_tool", "assistants.begin_test", "assistants.duplicate"),
        *("assistants.new_secret", "assistants.publish"),
        *("admin.grant", "admin.create_link", "admin.propose_prices"),
        *("budgets.add_raise", "budgets.ask", "budgets.create"),
        *(
            "orgs.add_member",
            "orgs.add_repository",
            "orgs.add_to_team",
            "orgs.create",
        ),
        *("orgs.create_org_key", "orgs.create_service", "orgs.create_team", "orgs.create_webhook"),
        *("orgs.name_domain", "orgs.new_scim_token", "orgs.rotate_org_key", "orgs.send_invites"),
        "atlas.describe_part",
        *("deployments.add_credential", "deployments.deploy_snapshot"),
        *(
            "insights.add_decision",
            "insights.add_item",
            "insights.read_for_decisions",
            "insights.suggest_steps",
        ),
        "plan_admin.create_plan",
        *("conversations.begin_conversation", "conversations.branch", "conversations.send_prompt"),
        *("projects.add_project", "projects.add_workspace"),
        "item_runs.begin_run",
        "playground.send",
        "provider_keys.add_provider_key",
        "publish_form.publish",
        "publishers.create",
        "runners.add_runner",
        "runs.share",
        *(
            "threads.answer_again",
            "threads.begin_thread",
            "threads.copy",
            "threads.send_message",
            "threads.share",
        ),
    }
)
"""Endpoints that make something new: their forms act once a day, also after "back". Other forms set a state, or have an
idempotency key of their own, as payments do: sent again after `DOUBLE_CLICK` they act again, because the state may have changed."""

WITHOUT_EFFECT = frozenset({"assistants.call_tool", "ledger.verify_file"})
"""Endpoints that change nothing, and work for so long that they should hold no transaction."""

ONCE_FOR = timedelta(days=1)
DOUBLE_CLICK = timedelta(seconds=3)
LONGEST = timedelta(minutes=1)
"""How long a form that is no `ONCE` counts as in flight."""
WAIT, PAUSE = 10.0, 0.1  # seconds
MAX_KEPT = 512 * 1024  # bytes of a response
KEPT_HEADERS = ("Content-Type", "Cache-Control", "Vary", "Referrer-Policy")


@dataclass(frozen=True)
class _Claim:
    id: str
    at: datetime
    flow: str  # the flow session before the view, as JSON

    @property
    def kept_for(self) -> timedelta:
        return ONCE_FOR if request.endpoint in ONCE else DOUBLE_CLICK


def init_app(app: Flask) -> None:
    """Install the checks, after the guards, and the template global `form_token`."""
    app.jinja_env.globals["form_token"] = lambda: secrets.token_urlsafe(16)
    app.before_request(_claim_or_replay)
    app.after_request(_finish)


def _claim_or_replay() -> ResponseReturnValue | None:
    token = _token()
    if token is None or request.endpoint is None:
        return None
    arrived, id = now(), _submission_id(token)
    expires = arrived + (ONCE_FOR if request.endpoint in ONCE else LONGEST)
    deadline = time.monotonic() + WAIT
    while not form_submissions.claim(id, request.endpoint, arrived, expires):
        found = form_submissions.find_submission(id, arrived)
        if found and found.finished_at:
            return _replay(found)
        db.session.rollback()  # holds no connection while it waits
        if time.monotonic() > deadline:
            raise Conflict(
                "This form was sent already and is still being processed. Wait a moment, then reload the page."
            )
        time.sleep(PAUSE)
    g.form_claim = _Claim(id, arrived, json.dumps(dict(session), default=str))
    return None


def _token() -> str | None:
    """The token of a form that acts once; None for other requests."""
    if request.method in SAFE or request.path.startswith((*JSON_DOORS, *KEY_DOORS)):
        return None
    if request.endpoint in SIGNED_LINKS | WITHOUT_EFFECT:
        return None
    token = request.form.get(FIELD, "")
    return token if 16 <= len(token) <= 64 else None


def _submission_id(token: str) -> str:
    found = cookie_credential()
    sender = found.session.session_token if found else session.get("csrf_token", "")
    fields = [pair for pair in request.form.items(multi=True) if pair[0] not in HIDDEN_FIELDS]
    files = [
        (name, file.filename, hashlib.sha256(file.stream.read()).hexdigest())
        for name, file in request.files.items(multi=True)
    ]
    for file in request.files.values():
        file.stream.seek(0)
    parts = [token, sender, request.method, request.full_path, fields, files]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


# -- the response --------------------------------------------------------------------------------------------


def _finish(response: Response) -> Response:
    claim: _Claim | None = g.pop("form_claim", None)
    if claim is None:
        return response
    try:
        db.session.rollback()  # what the view did not commit
        if 400 <= response.status_code < 500:
            form_submissions.release(claim.id, claim.at)
        else:
            moment = now()
            kept = _kept(response, claim)
            form_submissions.finish(claim.id, claim.at, kept, moment, moment + claim.kept_for)
        db.session.commit()
    except SQLAlchemyError:
        db.session.rollback()
        log.exception("the response of %s was not kept", request.endpoint)
    return response


def _kept(response: Response, claim: _Claim) -> str | None:
    """The encrypted response; None if it failed or is too long."""
    if response.status_code >= 500 or response.is_streamed or (response.content_length or 0) > MAX_KEPT:
        return None
    before = json.loads(claim.flow)
    kept = {
        "status": response.status_code,
        "location": response.headers.get("Location") or response.headers.get("HX-Redirect"),
        "headers": {name: response.headers[name] for name in KEPT_HEADERS if name in response.headers},
        "body": response.get_data(as_text=True),
        "fragment": wants_fragment(),
        "set": {name: value for name, value in session.items() if before.get(name) != value},
        "removed": [name for name in before if name not in session],
        "signed_in": g.signed_in and (g.signed_in[0], g.signed_in[1].isoformat())
        if "signed_in" in g
        else None,
        "signed_out": bool(g.get("signed_out")),
    }
    return seal(settings().secret_key, "form", json.dumps(kept).encode())


def _replay(found: FormSubmission) -> Response:
    """The response of the first submission. Raises Conflict if it is not kept any more."""
    assert found.finished_at
    sent = Conflict(
        f"This form was sent already, at {format.clock(found.started_at)}. Open the page again to see the result, or to send another."
    )
    if not found.response or now() - found.finished_at > RESPONSE_KEPT:
        raise sent
    try:
        kept: dict[str, Any] = json.loads(open_sealed(settings().secret_key, "form", found.response))
    except SealBroken:
        raise sent from None
    if not kept["location"] and kept["fragment"] != wants_fragment():
        raise sent
    for name in kept["removed"]:
        session.pop(name, None)
    session.update(kept["set"])
    if kept["signed_in"]:
        g.signed_in = (kept["signed_in"][0], datetime.fromisoformat(kept["signed_in"][1]))
    elif kept["signed_out"]:
        g.signed_out = True
    if kept["location"]:
        return see_other(kept["location"])
    return Response(kept["body"], kept["status"], kept["headers"])
