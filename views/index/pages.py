"""The page of a document: its text by pages or lines, cited words marked, and what of it could not be read."""

import re
from typing import Any

from flask import Blueprint, Response, request, url_for
from flask.typing import ResponseReturnValue

from models import index
from models.core.errors import NotFound
from models.index import Document, DocumentReader
from models.index.document_text import chunk_spot, document_text
from models.orgs import Org, memberships
from views.index.api import file_response
from views.web.guards import current_account, login_required
from views.web.htmx import render
from views.web.org_guards import check_sign_on

bp = Blueprint("documents", __name__)

HOMES = {"thread": ("threads.thread", "thread_id"), "assistant": ("assistants.documents", "assistant_id")}
"""The page of what a document belongs to: its endpoint, and the argument of that."""


@bp.get("/documents/<id>")
@login_required
def document(id: str) -> ResponseReturnValue:
    """Show a window of a document's text. `chunk` and `quote` mark what is cited; `at` is a chunk of the window."""
    found, org = _readable(id)
    seq, quote = _number("chunk"), request.args.get("quote", "")
    spot = None
    if seq is not None:
        spot = index.check_citation(f"{id}#{seq}", quote) if quote else chunk_spot(found, seq)
    at = seq if seq is not None else _number("at") or 0
    return render(
        "index/document.html",
        partial="index/_panel.html",
        document=found,
        home=_home(found, org),
        text=document_text(found, at=at, spot=spot),
        spot=spot,
        lost=seq is not None and spot is None and found.state == "ready",
    )


@bp.get("/documents/<id>/content")
@login_required
def content(id: str) -> Response:
    """Download the file."""
    return file_response(_readable(id)[0])


def _readable(id: str) -> tuple[Document, Org | None]:
    """A document of the person's, or of one of their organisations', and that. Raises NotFound, and SsoRequired where the organisation opens only
    through its identity provider."""
    own = current_account().id
    orgs = {org.id: org for org, _ in memberships(own)}
    for account_id in (own, *orgs):
        try:
            found = index.readable_document(DocumentReader(account_id, own), id)
        except NotFound:
            continue
        if account_id in orgs:
            check_sign_on(orgs[account_id])
        return found, orgs.get(account_id)
    raise NotFound("Document not found.")


def _home(document: Document, org: Org | None) -> str | None:
    """The address of the thread or the assistant that the document belongs to."""
    if document.scope_kind not in HOMES:
        return None
    endpoint, argument = HOMES[document.scope_kind]
    place: dict[str, Any] = {argument: document.scope_id, **({"slug": org.slug} if org else {})}
    return url_for(endpoint, **place)


def _number(name: str) -> int | None:
    text = request.args.get(name, "")
    return int(text) if re.fullmatch(r"\d{1,7}", text, re.ASCII) else None
