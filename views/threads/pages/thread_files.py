"""Documents that are attached to a thread: uploaded from its composer, with what was read of each."""

from collections.abc import Sequence
from typing import Any

from flask import request, url_for
from flask.typing import ResponseReturnValue

from models import index
from models.core.db import db
from models.core.errors import DomainError, Invalid
from models.index import Document, DocumentReader
from models.index.document_types import sniff
from models.threads import Thread
from views.threads.pages.thread_blueprint import thread_form, thread_page, viewed_thread
from views.web.htmx import render, see_other, wants_fragment
from views.web.org_guards import signed_in

MAX_FILES = 10
"""Files of one form."""

Upload = tuple[str, bytes]


@thread_page("/<thread_id>/documents")
def thread_documents(thread_id: str) -> ResponseReturnValue:
    """The documents of a thread, and what was read of them. Raises NotFound."""
    return _documents(viewed_thread(thread_id))


@thread_form("/<thread_id>/documents", "60/minute")
def attach(thread_id: str) -> ResponseReturnValue:
    """Attach files to a thread: `files`. 422 for those that cannot be read. Raises NotFound."""
    found = viewed_thread(thread_id)
    try:
        uploads = uploaded()
        if not uploads:
            raise Invalid("Choose a file.", fields={"files": "Choose a file."})
        attached(found, uploads)
    except DomainError as error:
        if error.status >= 500:
            raise
        db.session.rollback()
        return _documents(found, error=error.message, status=422)
    db.session.commit()
    return _shown(found)


@thread_form("/<thread_id>/documents/<document_id>/deletion", "60/minute")
def detach(thread_id: str, document_id: str) -> ResponseReturnValue:
    """Delete a document of a thread. Raises NotFound."""
    found = viewed_thread(thread_id)
    reader = DocumentReader(found.account_id, signed_in().id)
    document = index.readable_document(reader, document_id, write=True)
    if document.scope_id == found.id:
        index.delete_document(document)
    db.session.commit()
    return _shown(found)


def uploaded() -> list[Upload]:
    """The files of the form that have a name. Raises Invalid for too many, and DomainError for what is no document that can be read."""
    files = [file for file in request.files.getlist("files") if file.filename]
    if len(files) > MAX_FILES:
        raise Invalid(f"Attach at most {MAX_FILES} files at a time.")
    found = []
    for file in files:
        name, data = str(file.filename), file.read(index.MAX_BYTES + 1)
        try:
            if len(data) > index.MAX_BYTES:
                raise Invalid(f"A file has at most {index.MAX_BYTES >> 20} MB.")
            sniff(data, name)
        except DomainError as error:
            raise Invalid(f"{name[:80]}: {error.message}") from error
        found.append((name, data))
    return found


def attached(thread: Thread, uploads: Sequence[Upload]) -> list[Document]:
    """Store files as documents of the thread. Raises DomainError, of a full account for example."""
    account_id, user_id, id = thread.account_id, signed_in().id, thread.id
    index.check_room(account_id, [len(data) for _, data in uploads])
    db.session.commit()  # release the connection while files are stored
    return [index.add_document(account_id, user_id, "thread", id, name, data) for name, data in uploads]


def file_parts(documents: Sequence[Document]) -> list[dict[str, Any]]:
    """The documents as parts of a message."""
    return [{"type": "file", "document_id": each.id, "name": each.name} for each in documents]


def _shown(found: Thread) -> ResponseReturnValue:
    if wants_fragment():
        return _documents(found)
    return see_other(url_for("threads.thread_documents", thread_id=found.id))


def _documents(found: Thread, *, error: str = "", status: int = 200) -> ResponseReturnValue:
    documents = index.documents_of("thread", found.id)
    return render(
        "threads/documents.html",
        partial="threads/_documents.html",
        status=status,
        thread=found,
        documents=documents,
        error=error,
    )
