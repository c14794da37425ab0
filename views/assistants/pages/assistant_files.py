"""Documents of an assistant: upload, what was read of each, and deletion."""

from collections.abc import Sequence

from flask import request, url_for
from flask.typing import ResponseReturnValue
from werkzeug.datastructures import FileStorage

from models import index
from models.assistants import SavedAssistant, check_capability
from models.assistants.assistant_documents import SCOPE
from models.core.cooperative import heavy
from models.core.db import db
from models.core.errors import DomainError, NotFound
from models.index import Document, DocumentReader
from views.assistants.pages.assistant_blueprint import (
    assistant_action,
    assistant_page,
    viewed_assistant,
    viewer_may,
)
from views.web.htmx import render, see_other, toast, wants_fragment
from views.web.org_guards import signed_in, viewed_account

MAX_FILES = 20
"""Files of one upload."""


@assistant_page("/<assistant_id>/documents")
def documents(assistant_id: str) -> ResponseReturnValue:
    """Show the documents of an assistant, and what was read of each. Raises NotFound, Forbidden."""
    return _shown(viewed_assistant(assistant_id), [])


@assistant_action("/<assistant_id>/documents", "60/minute;2000/day")
def add_documents(assistant_id: str) -> ResponseReturnValue:
    """Store the files of the form. Those that cannot be stored are named with the reason (422); the others stay. Raises NotFound, Forbidden."""
    saved = viewed_assistant(assistant_id)
    check_capability(signed_in().id, viewed_account(), "edit_assistants")
    chosen = [each for each in request.files.getlist("file") if each.filename]
    problems = [] if chosen else ["Choose a file."]
    if len(chosen) > MAX_FILES:
        problems = [f"Upload at most {MAX_FILES} files at once."]
    for each in [] if problems else chosen:
        if problem := _add(saved.assistant.id, each):
            problems.append(problem)
    if problems:
        return _shown(viewed_assistant(assistant_id), problems)
    toast("1 file is uploaded." if len(chosen) == 1 else f"{len(chosen)} files are uploaded.")
    if wants_fragment():
        return _shown(viewed_assistant(assistant_id), [])
    return see_other(url_for("assistants.documents", assistant_id=assistant_id))


@assistant_page("/<assistant_id>/documents/<document_id>/removal")
def ask_document_removal(assistant_id: str, document_id: str) -> ResponseReturnValue:
    """Ask whether to delete a document. Raises NotFound, Forbidden."""
    saved = viewed_assistant(assistant_id)
    return render(
        "assistants/document_removal.html",
        partial="assistants/_document_removal.html",
        saved=saved,
        document=_own(saved, document_id),
    )


@assistant_action("/<assistant_id>/documents/<document_id>/removal")
def remove_document(assistant_id: str, document_id: str) -> ResponseReturnValue:
    """Delete a document. Raises NotFound, Forbidden."""
    saved = viewed_assistant(assistant_id)
    check_capability(signed_in().id, viewed_account(), "edit_assistants")
    found = _own(saved, document_id)
    index.delete_document(found)
    db.session.commit()
    toast(f"“{found.name[:80]}” is deleted.")
    return see_other(url_for("assistants.documents", assistant_id=assistant_id))


def _add(assistant_id: str, file: FileStorage) -> str | None:
    """Store a file and commit; what is wrong with it if it cannot be stored."""
    with heavy(request.content_length or index.MAX_BYTES):
        data = file.stream.read(index.MAX_BYTES + 1)
    account_id, user_id = viewed_account().id, signed_in().id
    try:
        index.check_room(account_id, [len(data)])
        db.session.commit()  # release the connection while the file is stored
        index.add_document(account_id, user_id, SCOPE, assistant_id, file.filename or "document", data)
    except DomainError as error:
        db.session.rollback()
        return f"{(file.filename or 'The file')[:100]}: {error.message}"
    db.session.commit()
    return None


def _own(saved: SavedAssistant, document_id: str) -> Document:
    """A document of this assistant. Raises NotFound."""
    found = index.readable_document(DocumentReader(viewed_account().id, signed_in().id), document_id)
    if found.scope != (viewed_account().id, SCOPE, saved.assistant.id):
        raise NotFound("Document not found.")
    return found


def _shown(saved: SavedAssistant, problems: Sequence[str]) -> ResponseReturnValue:
    return render(
        "assistants/documents.html",
        partial="assistants/_documents.html",
        status=422 if problems else 200,
        saved=saved,
        documents=index.documents_of(SCOPE, saved.assistant.id),
        file_problems=problems,
        may_edit=viewer_may("edit_assistants"),
    )
