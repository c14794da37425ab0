"""Many files in one request, for our client: what is missing, upload and download in batches."""

import re
from collections.abc import Iterator
from typing import Any

from flask import Response, jsonify
from flask.typing import ResponseReturnValue
from pydantic import Field

from models.accounts import scopes
from models.core.db import db
from models.core.errors import Invalid
from models.projects.snapshots.blob_packs import MAX_BLOB, existing_blobs, put_blobs, read_blobs, sizes_of
from views.projects.api.blob_routes import NO_ACCOUNT, STORED, bytes_account
from views.projects.api.projects_api_blueprint import CHANGES, DOOR, ORG, WRONG, bp, project_caller
from views.web.body import Body, read, read_bytes
from views.web.fast_path import MAX_UPLOAD_BYTES
from views.web.guards import key_caller, limiter
from views.web.operation import Operation, ResponseModel

MOST = 20_000
"""Hashes of one request."""
MOST_SENT = 16 << 20
"""Bytes of files of one answer; at least one file is sent."""
_HEAD = re.compile(rb"([0-9a-f]{64}) ([0-9]{1,9})\n")


class ManyHashes(Body):
    hashes: list[Any] = Field(description=f"SHA-256 of at most {MOST:,} files")


class MissingHashes(ResponseModel):
    missing: list[str]


class StoredBatch(ResponseModel):
    stored: list[str]
    existing: list[str]


@bp.post("/blobs/missing")
@limiter.limit(CHANGES, key_func=key_caller)
@Operation(
    tag="Files of projects",
    caller="key",
    scope=scopes.PROJECTS_WRITE,
    parameters=[ORG],
    body=ManyHashes,
    answers={200: ("Those that are not stored", MissingHashes), **NO_ACCOUNT, **WRONG},
    door=DOOR,
)
def missing_blobs() -> Response:
    """Ask which of many files are not stored."""
    account_id = bytes_account(project_caller(), "edit_projects")
    hashes = _hashes()
    found = existing_blobs(account_id, hashes)
    db.session.commit()
    return jsonify(missing=[each for each in hashes if each not in found])


@bp.post("/blobs/batch")
@limiter.limit(CHANGES, key_func=key_caller)
@Operation(
    tag="Files of projects",
    caller="key",
    scope=scopes.PROJECTS_WRITE,
    parameters=[ORG],
    body=bytes,
    body_kind="application/octet-stream",
    max_bytes=MAX_UPLOAD_BYTES,
    answers={200: ("What is stored now", StoredBatch), **STORED, 422: "The body is not a batch"},
    door=DOOR,
)
def upload_batch() -> ResponseReturnValue:
    """Store many files.

    The body is, for each file, its SHA-256, a space, its size in bytes, a line feed, and its bytes. Either all are stored or none.
    """
    account_id = bytes_account(project_caller(), "edit_projects")
    done = put_blobs(account_id, list(_parts(read_bytes())))
    db.session.commit()
    return jsonify(stored=done.stored, existing=done.existing)


@bp.post("/blobs/batch-download")
@limiter.limit(CHANGES, key_func=key_caller)
@Operation(
    tag="Files of projects",
    caller="key",
    scope=scopes.PROJECTS_READ,
    parameters=[ORG],
    body=ManyHashes,
    answers={
        200: ("Files as in the body of a batch, in any order", str),
        **NO_ACCOUNT,
        **WRONG,
        503: "The file storage is unavailable",
    },
    door=DOOR,
)
def download_batch() -> Response:
    """Read many files.

    Answers with those of the first that are stored, up to 16 MiB: ask again for the rest. Unknown ones are left out, and those larger
    than 25 MB: read them from `/v1/blobs/download/{hash}`.
    """
    account_id = bytes_account(project_caller(), "see_projects")
    wanted: list[str] = []
    left = MOST_SENT
    for sha256, size in sizes_of(account_id, _hashes()):
        if size > MAX_BLOB:
            continue
        if wanted and size > left:
            break
        wanted.append(sha256)
        left -= size
    parts = (
        b"%s %d\n%s" % (sha256.encode(), len(data), data) for sha256, data in read_blobs(account_id, wanted)
    )
    return Response(b"".join(parts), content_type="application/octet-stream")


def _hashes() -> list[str]:
    hashes = read(ManyHashes).hashes
    if len(hashes) > MOST:
        raise Invalid(f"'hashes' has more than {MOST:,}. Ask in several requests.")
    if not all(isinstance(each, str) and "\0" not in each for each in hashes):
        raise Invalid("'hashes' must be texts.")
    return list(dict.fromkeys(hashes))


def _parts(body: bytes) -> Iterator[tuple[str, bytes]]:
    """The files of a batch. Raises Invalid."""
    at = count = 0
    while at < len(body):
        head = _HEAD.match(body, at)
        end = head.end() + int(head[2]) if head else 0
        count += 1
        if head is None or end > len(body) or count > MOST:
            raise Invalid(
                f"The body is not a batch: at byte {at} there must be 'sha256 size', a line feed and as many bytes."
            )
        yield head[1].decode(), body[head.end() : end]
        at = end
