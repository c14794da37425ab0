"""`/api/v1/files`: documents that are read, searched and cited (crafely contract 6.2)."""

from datetime import datetime
from typing import Annotated, Any, Literal
from urllib.parse import quote

from flask import Blueprint, Response, jsonify, request
from flask.typing import ResponseReturnValue
from pydantic import BaseModel, Field
from werkzeug.exceptions import RequestEntityTooLarge

from models import index
from models.accounts import scopes
from models.core.cooperative import heavy
from models.core.db import db
from models.core.errors import Invalid, NotFound
from models.index import Document, DocumentReader, DocumentTooLarge, IndexScope
from models.ledger import Account
from views.web.body import Body, Int32, Missing, read
from views.web.error_bodies import MANAGEMENT
from views.web.format import iso
from views.web.guards import key_caller, limiter, require_key
from views.web.keyset import cursor, cursor_text, page_limit
from views.web.operation import Answers, Operation, ResponseModel, path, query

bp = Blueprint("files_api", __name__)

FORM_BYTES = 64 << 10
"""Bytes of a form around its file."""
PAGE, MAX_PAGE = 50, 100
FILE_ID = path("id", "`id` of the file, such as `file-…`")
PLACE = [
    query("thread_id", "The thread whose files are meant"),
    query("assistant_id", "The assistant whose files are meant"),
]
NOT_FOUND: Answers = {404: "No such file, thread or assistant of yours"}
UNAVAILABLE: Answers = {503: "The file storage is unavailable"}


class FileForm(BaseModel):
    file: bytes = Field(
        description="PDF, Word (.docx), PowerPoint (.pptx), Excel (.xlsx), HTML, Markdown or text, at most 20 MB"
    )
    thread_id: str | None = Field(None, description="The thread that the file belongs to, and never leaves")
    assistant_id: str | None = Field(
        None, description="The assistant that the file belongs to; whoever may run it may read the file"
    )


class FileReport(ResponseModel):
    unit: Missing[str] = Field(None, description="What is counted and cited: page, slide, sheet or line")
    parts: Missing[int] = Field(None, description="Number of pages, slides or sheets; 1 for lines")
    characters: Missing[int] = None
    tokens: Missing[int] = None
    chunks: Missing[int] = None
    notes: Missing[list[str]] = Field(
        None, description="What was ignored or cut, such as `Page 7 is a picture: no text.`"
    )
    pictures: Missing[list[int]] = Field(None, description="Pages or slides without text")
    error: Missing[str] = Field(None, description="Why the file could not be read")


class FileAnswer(ResponseModel):
    id: str
    object: Literal["file"]
    name: str
    media_type: str = Field(description="By the content, not by the name")
    bytes: int
    sha256: str
    scope: str = Field(description="What it belongs to: `account`, `thread` or `assistant`")
    scope_id: str
    state: Literal["queued", "parsing", "ready", "failed"]
    report: FileReport = Field(description="What was read; empty until then")
    created_at: datetime


class FileList(ResponseModel):
    data: list[FileAnswer]
    next_cursor: str | None


class DeletedFile(ResponseModel):
    id: str
    object: Literal["file"]
    deleted: Literal[True]


class FileSearch(Body):
    query: Annotated[str, Field(min_length=1, max_length=index.MAX_QUERY)]
    top_k: Annotated[Int32, Field(ge=1, le=index.MAX_TOP_K)] = 5
    thread_id: Missing[str] = Field(None, description="Search the files of this thread")
    assistant_id: Missing[str] = Field(None, description="Search the files of this assistant, too")


class FoundPassage(ResponseModel):
    citation: str = Field(description="`<file id>#<chunk>`, which names the passage in an answer")
    file_id: str
    name: str
    unit: str = Field(description="page, slide, sheet or line")
    first: int = Field(description="The page or line on which `text` begins, from 1")
    last: int
    text: str
    passage: str = Field(description="`text` with what stands before and after it")
    score: float = Field(description="Compares passages of one answer only; at most 1")


class FilesFound(ResponseModel):
    data: list[FoundPassage]
    nothing_found: bool = Field(description="The files have nothing about the query")


@bp.post("/api/v1/files")
@limiter.limit("60/minute;2000/day", key_func=key_caller)
@Operation(
    tag="Files",
    caller="key",
    scope=scopes.THREADS_WRITE,
    body=FileForm,
    body_kind="multipart/form-data",
    max_bytes=index.MAX_BYTES + FORM_BYTES,
    answers={
        201: ("Stored; its text is read by a job", FileAnswer),
        **NOT_FOUND,
        409: "The account has as many files as it may",
        415: "Not a document that can be read",
        422: "The form has no file, or names a thread and an assistant",
        **UNAVAILABLE,
    },
    door=MANAGEMENT,
)
def upload_file() -> ResponseReturnValue:
    """Upload a document.

    It belongs to the key's account, or to a thread or an assistant. Its state becomes `ready` when its text was read, within seconds.
    The same bytes are stored once.
    """
    reader = _reader()
    name, data, thread_id, assistant_id = _form()
    scope = _scope(reader, thread_id, assistant_id, write=True)
    index.check_room(scope.account_id, [len(data)])
    db.session.commit()  # release the connection while the file is stored
    document = index.add_document(scope.account_id, reader.user_id, scope.kind, scope.id, name, data)
    body = file_json(document)
    db.session.commit()
    return jsonify(body), 201


@bp.get("/api/v1/files")
@Operation(
    tag="Files",
    caller="key",
    scope=scopes.THREADS_READ,
    parameters=[
        *PLACE,
        query("before", "`next_cursor` of the previous page"),
        query("limit", f"At most {MAX_PAGE}; {PAGE} by default"),
    ],
    answers={200: ("Newest first", FileList), **NOT_FOUND, 422: "A parameter is wrong"},
    door=MANAGEMENT,
)
def list_files() -> ResponseReturnValue:
    """List the documents of the key's account, of a thread, or of an assistant."""
    reader = _reader()
    scope = _scope(reader, request.args.get("thread_id"), request.args.get("assistant_id"))
    limit = page_limit(PAGE, MAX_PAGE)
    rows = index.documents_page(scope, cursor(), limit + 1)
    page = rows[:limit]
    last = page[-1] if len(rows) > len(page) else None
    next_cursor = cursor_text(last.created_at, last.id) if last else None
    return jsonify(data=[file_json(each) for each in page], next_cursor=next_cursor)


@bp.get("/api/v1/files/<id>")
@Operation(
    tag="Files",
    caller="key",
    scope=scopes.THREADS_READ,
    parameters=[FILE_ID],
    answers={200: ("The file and what was read of it", FileAnswer), **NOT_FOUND},
    door=MANAGEMENT,
)
def get_file(id: str) -> ResponseReturnValue:
    """Get a document, without its content."""
    return jsonify(file_json(index.readable_document(_reader(), id)))


@bp.delete("/api/v1/files/<id>")
@Operation(
    tag="Files",
    caller="key",
    scope=scopes.THREADS_WRITE,
    parameters=[FILE_ID],
    answers={200: ("Deleted", DeletedFile), **NOT_FOUND},
    door=MANAGEMENT,
)
def delete_file(id: str) -> ResponseReturnValue:
    """Delete a document.

    It is in no list and no search from now on, and removed for good a week later.
    """
    index.delete_document(index.readable_document(_reader(), id, write=True))
    db.session.commit()
    return jsonify(id=id, object="file", deleted=True)


@bp.get("/api/v1/files/<id>/content")
@Operation(
    tag="Files",
    caller="key",
    scope=scopes.THREADS_READ,
    parameters=[FILE_ID],
    answers={200: "The file as it was uploaded", **NOT_FOUND, **UNAVAILABLE},
    door=MANAGEMENT,
)
def file_content(id: str) -> Response:
    """Download a document."""
    return file_response(index.readable_document(_reader(), id))


@bp.post("/api/v1/files/search")
@limiter.limit("600/minute", key_func=key_caller)
@Operation(
    tag="Files",
    caller="key",
    scope=scopes.THREADS_READ,
    body=FileSearch,
    answers={200: ("Best first", FilesFound), **NOT_FOUND, 422: "A field is missing or wrong"},
    door=MANAGEMENT,
)
def search_files() -> ResponseReturnValue:
    """Search documents for passages.

    First one passage of each file, then more. Without a thread or an assistant, the files of the key's account are searched.
    """
    reader, body = _reader(), read(FileSearch)
    kinds = (("thread", body.thread_id), ("assistant", body.assistant_id))
    places = [index.readable_scope(reader, kind, id) for kind, id in kinds if id is not None]
    found = index.search(places or [_scope(reader, None, None)], body.query, body.top_k)
    hits = [
        {
            "citation": hit.chunk_id,
            "file_id": hit.document_id,
            **{
                name: getattr(hit, name)
                for name in ("name", "unit", "first", "last", "text", "passage", "score")
            },
        }
        for hit in found.hits
    ]
    return jsonify(data=hits, nothing_found=found.nothing_found)


def file_json(document: Document) -> dict[str, Any]:
    """A document for JSON."""
    columns = ("id", "name", "media_type", "bytes", "sha256", "state", "report", "scope_id")
    return {
        **{name: getattr(document, name) for name in columns},
        "object": "file",
        "scope": document.scope_kind,
        "created_at": iso(document.created_at),
    }


def file_response(document: Document) -> Response:
    """The document as a download, which no browser runs or shows. Raises NotFound if its bytes are gone, and FilesUnavailable."""
    db.session.commit()  # release the connection while the file is read
    content = index.document_bytes(document)
    if content is None:
        raise NotFound("The content of this document is gone.")
    response = Response(content, mimetype=document.media_type)
    plain = "".join(sign if sign.isalnum() or sign in " .-_" else "_" for sign in document.name)
    plain = plain.encode("ascii", "replace").decode().replace("?", "_")
    response.headers["Content-Disposition"] = (
        f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(document.name, safe='')}"
    )
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Content-Security-Policy"] = "default-src 'none'; sandbox"
    return response


def _reader() -> DocumentReader:
    caller = require_key()
    return DocumentReader(Account.of(caller.session).id, caller.user.id)


def _scope(
    reader: DocumentReader, thread_id: str | None, assistant_id: str | None, *, write: bool = False
) -> IndexScope:
    if thread_id is not None and assistant_id is not None:
        raise Invalid("Name a thread or an assistant, not both.")
    kind, id = "account", reader.account_id
    if thread_id is not None:
        kind, id = "thread", thread_id
    elif assistant_id is not None:
        kind, id = "assistant", assistant_id
    return (index.writable_scope if write else index.readable_scope)(reader, kind, id)


def _form() -> tuple[str, bytes, str | None, str | None]:
    """Name and content of the file, and the ids of a thread and an assistant. Raises Invalid, DocumentTooLarge."""
    try:
        with heavy(request.content_length or index.MAX_BYTES):
            file, form = request.files.get("file"), request.form
            data = file.stream.read(index.MAX_BYTES + 1) if file is not None else None
    except RequestEntityTooLarge:
        raise DocumentTooLarge(f"The file is larger than {index.MAX_BYTES >> 20} MB. Split it.") from None
    finally:
        request.close()
    if file is None or data is None:
        raise Invalid("The form needs a file in the field 'file' (multipart/form-data).", code="file_missing")
    return file.filename or "document", data, form.get("thread_id") or None, form.get("assistant_id") or None
