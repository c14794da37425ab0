"""The page of a document: its text by pages or lines, cited words marked, and what of it could not be read."""

import re

from flask import Blueprint, Response, request
from flask.typing import ResponseReturnValue

from models import index
from models.core.errors import NotFound
from models.index import Document, DocumentReader
from models.index.document_text import chunk_spot, document_text
from models.orgs import memberships
from views.index.api import file_response
from views.web.guards import current_account, login_required
from views.web.htmx import render
from views.web.org_guards import check_sign_on

bp = Blueprint("documents", __name__)


@bp.get("/documents/<id>")
@login_required
def document(id: str) -> ResponseReturnValue:
    """Show a window of a document's text. `chunk` and `quote` mark what is cited; `at` is a chunk of the window."""
    found = _readable(id)
    seq, quote = _number("chunk"), request.args.get("quote", "")
    spot = None
    if seq is not None:
        spot = index.check_citation(f"{id}#{seq}", quote) if quote else chunk_spot(found, seq)
    at = seq if seq is not None else _number("at") or 0
    return render(
        "index/document.html",
        partial="index/_document.html",
        document=found,
        text=document_text(found, at=at, spot=spot),
        spot=spot,
        lost=seq is not None and spot is None and found.state == "ready",
    )


@bp.get("/documents/<id>/content")
@login_required
def content(id: str) -> Response:
    """Download the file."""
    return file_response(_readable(id))


def _readable(id: str) -> Document:
    """A document of the person's, or of one of their organisations'. Raises NotFound, and SsoRequired where the organisation opens only
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
        return found
    raise NotFound("Document not found.")


def _number(name: str) -> int | None:
    text = request.args.get(name, "")
    return int(text) if re.fullmatch(r"\d{1,7}", text, re.ASCII) else None
