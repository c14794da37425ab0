"""`/v1/runners/work`: the tree of a work, its manifest and its files, as a runner reads them."""

from itertools import chain
from typing import Any

from flask import Response, request, stream_with_context
from flask.typing import ResponseReturnValue
from pydantic import Field

from models.accounts import scopes
from models.core.db import db
from models.core.errors import Invalid, NotFound
from models.projects.snapshots.blob_packs import MAX_BLOB, blob_stream, read_blobs, sizes_of
from models.projects.snapshots.manifest_store import manifest_text
from models.runners import work_queue
from views.projects.api.projects_api_blueprint import DOOR, WRONG
from views.runners.api.runners_api_blueprint import CALLS, GONE, WORK_ID, Texts, bp, calling_runner
from views.runners.api.work_routes import LeaseBody
from views.web.body import read
from views.web.guards import key_caller, limiter
from views.web.operation import Answers, Operation, query

MOST_HASHES = 5_000
MOST_SENT = 16 << 20
LEASE_QUERY = query("lease", "The number of the lease", required=True)
FILES_GONE: Answers = {503: "The file storage is unavailable"}


class HashesBody(LeaseBody):
    hashes: Texts = Field(description=f"SHA-256 of at most {MOST_HASHES:,} files")


@bp.get("/work/<work_id>/manifest")
@limiter.limit(CALLS, key_func=key_caller)
@Operation(
    tag="Runners",
    caller="key",
    scope=scopes.RUNNERS_WORK,
    parameters=[WORK_ID, LEASE_QUERY],
    answers={
        200: ("The text of the manifest", dict[str, Any]),
        **GONE,
        422: "The lease is no number",
        **FILES_GONE,
    },
    door=DOOR,
)
def work_manifest(work_id: str) -> ResponseReturnValue:
    """Read the manifest of the tree of a work."""
    runner = calling_runner()
    text = request.args.get("lease", "")
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise Invalid("'lease' must be the number of the lease.")
    row = work_queue.held_work(runner, work_id, int(text))
    hash = row.request.get("manifest_hash")
    db.session.commit()
    found = manifest_text(row.account_id, hash) if isinstance(hash, str) else None
    if found is None:
        raise NotFound("The tree of this work is empty, or was removed.")
    return Response(found, content_type="application/json")


@bp.post("/work/<work_id>/blobs")
@limiter.limit(CALLS, key_func=key_caller)
@Operation(
    tag="Runners",
    caller="key",
    scope=scopes.RUNNERS_WORK,
    parameters=[WORK_ID],
    body=HashesBody,
    answers={200: ("Files as in `/v1/blobs/batch-download`", str), **GONE, **WRONG, **FILES_GONE},
    door=DOOR,
)
def work_blobs(work_id: str) -> ResponseReturnValue:
    """Read files of the account of a work.

    Answers with those of the first that are stored, up to 16 MiB, or with a single larger one: ask again for the rest.
    """
    runner = calling_runner()
    body = read(HashesBody)
    if len(body.hashes) > MOST_HASHES or any("\0" in each for each in body.hashes):
        raise Invalid(f"'hashes' must be at most {MOST_HASHES:,} hashes.")
    row = work_queue.held_work(runner, work_id, body.lease)
    db.session.commit()
    wanted: list[str] = []
    left = MOST_SENT
    for sha256, size in sizes_of(row.account_id, list(dict.fromkeys(body.hashes))):
        if size > MAX_BLOB and not wanted:
            return _large(row.account_id, sha256)
        if size > MAX_BLOB or (wanted and size > left):
            continue
        wanted.append(sha256)
        left -= size
    parts = (
        b"%s %d\n%s" % (sha256.encode(), len(data), data)
        for sha256, data in read_blobs(row.account_id, wanted)
    )
    return Response(b"".join(parts), content_type="application/octet-stream")


def _large(account_id: str, sha256: str) -> Response:
    """A file that is too large to be held in memory, alone in its batch."""
    found = blob_stream(account_id, sha256)
    if found is None:
        raise NotFound("A file of this tree was removed.")
    size, pieces = found
    head = b"%s %d\n" % (sha256.encode(), size)
    return Response(stream_with_context(chain([head], pieces)), content_type="application/octet-stream")
