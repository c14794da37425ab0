"""Pages of an agent's versions: list with provenance, yank and restore, deprecation, and diff."""

import re
from itertools import pairwise
from typing import Any

from flask import Blueprint, redirect, request, url_for
from flask.typing import ResponseReturnValue
from jinja2.utils import LRUCache

from models.accounts import User
from models.core.cooperative import heavy
from models.core.db import db, now
from models.core.errors import Invalid, NotFound
from models.store import publishers
from models.store.catalogue import agent_page, markdown, readme
from models.store.catalogue.agent_page import UNKNOWN, AgentPage
from models.store.catalogue.version_diff import FieldChange, compare
from models.store.publishing import withdrawing
from models.store.tables import Agent, AgentVersion
from views.store.pages.agent import AGENT
from views.store.pages.limits import count_change
from views.web.guards import audit, cookie_user, limiter, login_required
from views.web.htmx import render, see_other, toast

bp = Blueprint("versions", __name__)

VERSION = re.compile(r"\d{1,9}\.\d{1,9}\.\d{1,9}", re.ASCII)
_compared: LRUCache = LRUCache(32)
"""Cached diffs. Versions are immutable, so entries never expire."""


@bp.get(f"{AGENT}/versions")
def versions(publisher_id: str, agent_id: str) -> ResponseReturnValue:
    """List versions, highest first. `?below=` is the last version of the previous page."""
    publisher, agent = agent_page.find(publisher_id, agent_id)
    below = request.args.get("below", "")
    below = below if VERSION.fullmatch(below) else ""
    lines = agent_page.versions_of(agent, below=below or None, limit=agent_page.PAGE_SIZE + 1)
    shown, visible = lines[: agent_page.PAGE_SIZE], [line for line in lines if not line.takedown_reason]
    user = cookie_user()
    return render(
        "store/versions.html",
        partial="store/_all_versions.html",
        publisher=publisher,
        agent=agent,
        versions=shown,
        plain_text=markdown.plain_text,
        older={after.version.version: before.version.version for after, before in pairwise(visible)},
        below=below,
        next=shown[-1].version.version if len(lines) > len(shown) else None,
        may_edit=publishers.can_manage(user, publisher),
    )


@bp.get(f"{AGENT}/<version>/yank")
@login_required
def ask_yank(publisher_id: str, agent_id: str, version: str) -> ResponseReturnValue:
    """Ask for the reason to yank a version, in a dialog or on its own page."""
    row = _version(publisher_id, agent_id, version)
    return _yank_form(row, row.yanked_reason or "")


@bp.post(f"{AGENT}/<version>/yank")
@login_required
def yank(publisher_id: str, agent_id: str, version: str) -> ResponseReturnValue:
    """Yank a version, or change the reason. `latest` skips it; its exact version stays available."""
    row = _version(publisher_id, agent_id, version)
    reason = request.form.get("reason", "")
    count_change(_user())
    try:
        withdrawing.yank(_user(), publisher_id, agent_id, version, reason, now())
    except Invalid as refusal:
        return _yank_form(row, reason, refusal.fields["reason"])
    _audit_and_commit("store.yank", row, {"reason": reason.strip()})
    toast(f"Version {version} yanked")
    return see_other(_versions_address(publisher_id, agent_id))


@bp.post(f"{AGENT}/<version>/unyank")
@login_required
def unyank(publisher_id: str, agent_id: str, version: str) -> ResponseReturnValue:
    """Restore a yanked version."""
    count_change(_user())
    row = withdrawing.unyank(_user(), publisher_id, agent_id, version)
    _audit_and_commit("store.unyank", row, None)
    toast(f"Version {version} restored")
    return see_other(_versions_address(publisher_id, agent_id))


@bp.get(f"{AGENT}/deprecation")
@login_required
def ask_deprecation(publisher_id: str, agent_id: str) -> ResponseReturnValue:
    """Ask for the reason of a deprecation and the agent to use instead."""
    agent = readme.open_agent(_user(), publisher_id, agent_id)
    return _deprecation_form(agent, agent.deprecated_reason or "", agent.successor or "", {})


@bp.post(f"{AGENT}/deprecation")
@login_required
def deprecate(publisher_id: str, agent_id: str) -> ResponseReturnValue:
    """Deprecate the agent, change reason or successor, or undo it (`do=undo`)."""
    user, reason = _user(), request.form.get("reason", "")
    successor = request.form.get("successor", "").strip()
    agent = readme.open_agent(user, publisher_id, agent_id)
    undo = request.form.get("do") == "undo"
    count_change(user)
    try:
        if undo:
            withdrawing.undeprecate(user, publisher_id, agent_id)
        else:
            withdrawing.deprecate(user, publisher_id, agent_id, reason, successor or None, now())
    except Invalid as refusal:
        db.session.rollback()
        agent = readme.open_agent(user, publisher_id, agent_id)
        return _deprecation_form(agent, reason, successor, refusal.fields)
    after = None if undo else {"reason": reason.strip(), "successor": successor or None}
    audit("store.deprecation", f"{publisher_id}/{agent_id}", user=user, after=after)
    db.session.commit()
    toast("No longer deprecated" if undo else "Marked as deprecated")
    return see_other(_versions_address(publisher_id, agent_id))


@bp.get(f"{AGENT}/diff")
def choose(publisher_id: str, agent_id: str) -> ResponseReturnValue:
    """Redirect the compare form to the diff of its two versions."""
    ids: dict[str, Any] = {"publisher_id": publisher_id, "agent_id": agent_id}
    before, after = request.args.get("from", ""), request.args.get("to", "")
    if not (before and after):
        return redirect(url_for("versions.versions", **ids))
    return redirect(url_for("versions.difference", before=before, after=after, **ids))


@bp.get(f"{AGENT}/diff/<before>/<after>")
@limiter.limit("120/minute")
def difference(publisher_id: str, agent_id: str, before: str, after: str) -> ResponseReturnValue:
    """Show the diff of two versions: field by field, long texts line by line."""
    old = agent_page.load(publisher_id, agent_id, before)
    new = agent_page.load(publisher_id, agent_id, after)
    return render("store/diff.html", old=old, new=new, changes=_changes(old, new), markdown=markdown.render)


def _changes(old: AgentPage, new: AgentPage) -> list[FieldChange]:
    key = (old.full_id, new.full_id, old.version.published_at, new.version.published_at)
    found: list[FieldChange] | None = _compared.get(key)
    if found is None:
        db.session.expunge_all()
        db.session.rollback()  # release the connection while it waits and computes
        with heavy(1, threshold=0):
            found = _compared[key] = _compared.get(key) or compare(old.data, new.data)
    return found


def _user() -> User:
    user = cookie_user()
    assert user is not None
    return user


def _version(publisher_id: str, agent_id: str, version: str) -> AgentVersion:
    """The version, for users who may manage it. Raises NotFound and Forbidden."""
    readme.open_agent(_user(), publisher_id, agent_id)
    found = None if "\x00" in version else db.session.get(AgentVersion, (publisher_id, agent_id, version))
    if found is None:
        raise NotFound(UNKNOWN)
    return found


def _audit_and_commit(action: str, row: AgentVersion, after: dict[str, str] | None) -> None:
    audit(action, f"{row.publisher_id}/{row.agent_id}@{row.version}", user=_user(), after=after)
    db.session.commit()


def _yank_form(row: AgentVersion, reason: str, error: str | None = None) -> ResponseReturnValue:
    return render(
        "store/yank.html",
        partial="store/_yank.html",
        status=422 if error else 200,
        row=row,
        reason=reason,
        error=error,
        back=_versions_address(row.publisher_id, row.agent_id),
    )


def _deprecation_form(
    agent: Agent, reason: str, successor: str, errors: dict[str, str]
) -> ResponseReturnValue:
    return render(
        "store/deprecation.html",
        partial="store/_deprecation.html",
        status=422 if errors else 200,
        agent=agent,
        reason=reason,
        successor=successor,
        errors=errors,
        back=_versions_address(agent.publisher_id, agent.id),
    )


def _versions_address(publisher_id: str, agent_id: str) -> str:
    return url_for("versions.versions", publisher_id=publisher_id, agent_id=agent_id)
