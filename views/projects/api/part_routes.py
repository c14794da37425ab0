"""Large files sent in parts, one request each; a client asks how much was received, and goes on there."""

from flask import Response, jsonify, request
from flask.typing import ResponseReturnValue

from models.accounts import scopes
from models.core.db import db
from models.core.errors import Invalid
from models.projects.snapshots.blob_packs import HashMismatch
from models.projects.snapshots.part_sending import PartState, part_state, put_part
from views.projects.api.blob_routes import HASH, NO_ACCOUNT, STORED, UPLOADS, bytes_account
from views.projects.api.projects_api_blueprint import DOOR, ORG, ProjectError, bp, project_caller
from views.web.body import read_bytes
from views.web.fast_path import MAX_UPLOAD_BYTES
from views.web.guards import key_caller, limiter
from views.web.operation import Operation, ResponseModel, query


class ReceivedPart(ResponseModel):
    received: int
    complete: bool


@bp.get("/blobs/parts/<hash>")
@Operation(
    tag="Files of projects",
    caller="key",
    scope=scopes.PROJECTS_WRITE,
    parameters=[HASH, ORG],
    answers={200: ("How many bytes were received; none of an unknown file", ReceivedPart), **NO_ACCOUNT},
    door=DOOR,
)
def received_parts(hash: str) -> Response:
    """Ask where to go on sending a large file."""
    account_id = bytes_account(project_caller(), "edit_projects")
    found = part_state(account_id, hash) if "\0" not in hash else PartState(0)
    db.session.commit()
    return jsonify(received=found.received, complete=found.complete)


@bp.put("/blobs/parts/<hash>")
@limiter.limit(UPLOADS, key_func=key_caller)
@Operation(
    tag="Files of projects",
    caller="key",
    scope=scopes.PROJECTS_WRITE,
    parameters=[
        HASH,
        ORG,
        query("offset", "Where the part begins: as many bytes were received"),
        query("size", "Bytes of the whole file"),
    ],
    body=bytes,
    body_kind="application/octet-stream",
    max_bytes=MAX_UPLOAD_BYTES,
    answers={
        200: ("The part is stored, or the file was stored already", ReceivedPart),
        201: ("It was the last one: the file is stored", ReceivedPart),
        **STORED,
        400: ("All parts came, and have another SHA-256 (`HASH_MISMATCH`): begin anew", ProjectError),
        409: "The part must begin elsewhere (`OTHER_PART`): at `details.received`. Or too many files are being sent (`TOO_MANY_PARTS`)",
        413: "It is larger than STOA_PROJECT_FILE_BYTES, or the account stores as many bytes as it may (`QUOTA_EXCEEDED`)",
        422: "`offset` or `size` is wrong, or the part goes beyond it (`VALIDATION_ERROR`)",
    },
    door=DOOR,
)
def upload_part(hash: str) -> ResponseReturnValue:
    """Send a part of a large file.

    Parts come in order, best of 16 MiB. What was received is kept for a day after the last part.
    """
    account_id = bytes_account(project_caller(), "edit_projects")
    size, offset = _number("size"), _number("offset")
    done = put_part(account_id, hash, size, offset, read_bytes())
    db.session.commit()
    if done.mismatch:
        raise HashMismatch(
            "The parts do not have the SHA-256 of the address. Send all of them again, unchanged."
        )
    return jsonify(received=done.received, complete=done.complete), 201 if done.created else 200


def _number(name: str) -> int:
    """A query parameter of up to 15 digits. Raises Invalid."""
    text = request.args.get(name, "")
    if not (text.isascii() and text.isdigit() and len(text) <= 15):
        raise Invalid(f"'{name}' must be a number of bytes.")
    return int(text)
