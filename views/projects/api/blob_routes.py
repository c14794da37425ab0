"""Blobs and manifests, one at a time: what is missing, upload, download, garbage and figures (fastest contract 3.7, 3.8)."""

from typing import Any
from urllib.parse import quote

from flask import Response, jsonify, request
from flask.typing import ResponseReturnValue
from pydantic import Field

from models.accounts import scopes
from models.core.db import db
from models.core.errors import NotFound
from models.core.files import files
from models.projects import ProjectCaller
from models.projects.project_access import check_project_role
from models.projects.snapshots import blob_garbage
from models.projects.snapshots.blob_packs import MAX_BLOB, blob_stream, existing_blobs, put_blob, storage_of
from models.projects.snapshots.manifest_store import manifest_text, put_changed_manifest, put_manifest
from models.projects.snapshots.manifest_text import listed_entries
from views.projects.api.projects_api_blueprint import (
    CHANGES,
    DOOR,
    ORG,
    WRONG,
    ProjectError,
    bp,
    chosen_account,
    project_caller,
)
from views.web.body import Body, Missing, parse, read, read_bytes, read_json
from views.web.guards import key_caller, limiter, settings
from views.web.operation import Answers, Operation, ResponseModel, path
from views.web.streamed_files import streamed

IMMUTABLE = "private, max-age=31536000, immutable"
LOOKED_AT = 100
"""Hashes of a request that are looked at; others are ignored."""
MOST_CHANGED = 20_000
"""Entries of a changed list that are sent, and paths that are gone."""
UPLOADS = "12000/minute"
HASH = path("hash", "SHA-256 of the bytes, in 64 lower-case hexadecimal digits")
NO_ACCOUNT: Answers = {
    403: "Your role in the organisation does not allow it",
    404: "You belong to no such organisation",
}
STORED: Answers = {
    400: ("The bytes have another SHA-256 (`HASH_MISMATCH`)", ProjectError),
    403: "Your role in the organisation does not allow it",
    404: "You belong to no such organisation",
    413: "It is larger than 25 MB (send it to `/v1/blobs/parts/{hash}`), or the account stores as many bytes as it may (`QUOTA_EXCEEDED`)",
    503: "The file storage is unavailable",
}


class HashList(Body):
    hashes: list[Any] = Field(description=f"SHA-256 of files; the first {LOOKED_AT} are looked at")


class GarbageRequest(Body):
    dryRun: Missing[bool] = Field(None, description="Only count; true by default")
    maxBlobs: Missing[int] = Field(None, ge=1, le=10**6, description="10,000 by default")


class ExistingHashes(ResponseModel):
    missing: list[str]
    existing: list[str]
    checked: int


class BlobAddresses(ResponseModel):
    urls: dict[str, str] = Field(description="Paths on this server by hash")


class StoredBlob(ResponseModel):
    hash: str
    size: int
    created: bool


class StoredManifest(ResponseModel):
    hash: str
    created: bool


class GarbageAnswer(ResponseModel):
    success: bool
    dryRun: bool
    scannedBlobs: int
    orphanedBlobs: int
    freedBytes: int
    freedMB: float
    message: str


class CountedBytes(ResponseModel):
    count: int
    bytes: int
    mb: float


class TotalBytes(ResponseModel):
    bytes: int
    mb: float


class ManifestChanges(Body):
    base: Missing[str] = Field(None, description="SHA-256 of a list that is stored")
    files: list[Any] = Field([], max_length=MOST_CHANGED, description="Entries that are new or changed")
    deleted: list[str] = Field([], max_length=MOST_CHANGED, fail_fast=True, description="Paths that are gone")


class StorageAnswer(ResponseModel):
    blobs: CountedBytes = Field(description="Sizes of files, before compression")
    manifests: CountedBytes
    total: TotalBytes


@bp.post("/blobs/exists")
@Operation(
    tag="Files of projects",
    caller="key",
    scope=scopes.PROJECTS_WRITE,
    parameters=[ORG],
    body=HashList,
    answers={200: ("Which of them are stored", ExistingHashes), **NO_ACCOUNT, **WRONG},
    door=DOOR,
)
def blobs_exist() -> Response:
    """Ask which files are stored already."""
    account_id = bytes_account(project_caller(), "edit_projects")
    hashes = _hashes()
    found = existing_blobs(account_id, hashes)
    db.session.commit()
    existing = [each for each in hashes if each in found]
    return jsonify(
        missing=[each for each in hashes if each not in found], existing=existing, checked=len(hashes)
    )


@bp.post("/blobs/presign-upload")
@Operation(
    tag="Files of projects",
    caller="key",
    scope=scopes.PROJECTS_WRITE,
    parameters=[ORG],
    body=HashList,
    answers={200: ("Where to send them", BlobAddresses), **NO_ACCOUNT, **WRONG},
    door=DOOR,
)
def presign_upload() -> Response:
    """Ask where to send files."""
    bytes_account(project_caller(), "edit_projects")
    return _addresses("upload")


@bp.post("/blobs/presign-download")
@Operation(
    tag="Files of projects",
    caller="key",
    scope=scopes.PROJECTS_READ,
    parameters=[ORG],
    body=HashList,
    answers={200: ("Where to read them", BlobAddresses), **NO_ACCOUNT, **WRONG},
    door=DOOR,
)
def presign_download() -> Response:
    """Ask where to read files."""
    bytes_account(project_caller(), "see_projects")
    return _addresses("download")


@bp.put("/blobs/upload/<hash>")
@limiter.limit(UPLOADS, key_func=key_caller)
@Operation(
    tag="Files of projects",
    caller="key",
    scope=scopes.PROJECTS_WRITE,
    parameters=[HASH, ORG],
    body=bytes,
    body_kind="application/octet-stream",
    max_bytes=MAX_BLOB,
    answers={200: ("It was stored already", StoredBlob), 201: ("It is stored", StoredBlob), **STORED},
    door=DOOR,
)
def upload_blob(hash: str) -> ResponseReturnValue:
    """Store a file."""
    account_id = bytes_account(project_caller(), "edit_projects")
    data = read_bytes()
    created = put_blob(account_id, hash, data)
    db.session.commit()
    return jsonify(hash=hash, size=len(data), created=created), 201 if created else 200


@bp.get("/blobs/download/<hash>")
@Operation(
    tag="Files of projects",
    caller="key",
    scope=scopes.PROJECTS_READ,
    parameters=[HASH, ORG],
    answers={
        200: ("The bytes", str),
        403: "Your role in the organisation does not allow it",
        404: "No such file is stored",
        503: "The file storage is unavailable",
    },
    door=DOOR,
)
def download_blob(hash: str) -> Response:
    """Read a file."""
    account_id = bytes_account(project_caller(), "see_projects")
    found = blob_stream(account_id, hash) if "\0" not in hash else None
    if found is None:
        raise NotFound("There is no such file.")
    return streamed(*found, {"Cache-Control": IMMUTABLE})


@bp.put("/blobs/manifests/<hash>")
@limiter.limit(CHANGES, key_func=key_caller)
@Operation(
    tag="Files of projects",
    caller="key",
    scope=scopes.PROJECTS_WRITE,
    parameters=[HASH, ORG],
    body=bytes,
    body_kind="application/json",
    max_bytes=MAX_BLOB,
    answers={
        200: ("It was stored already", StoredManifest),
        201: ("It is stored", StoredManifest),
        **STORED,
        422: "It could harm a client: a path or link that leaves the project, a path that is named twice, … (`MANIFEST_INVALID`)",
    },
    door=DOOR,
)
def upload_manifest(hash: str) -> ResponseReturnValue:
    """Store the list of files of a whole tree."""
    account_id = bytes_account(project_caller(), "edit_projects")
    created = put_manifest(account_id, hash, read_bytes())
    db.session.commit()
    return jsonify(hash=hash, created=created), 201 if created else 200


@bp.post("/blobs/manifests/<hash>/changes")
@limiter.limit(CHANGES, key_func=key_caller)
@Operation(
    tag="Files of projects",
    caller="key",
    scope=scopes.PROJECTS_WRITE,
    parameters=[HASH, ORG],
    body=ManifestChanges,
    answers={
        200: ("It was stored already", StoredManifest),
        201: ("It is stored", StoredManifest),
        **STORED,
        422: "The other list is not stored (`MANIFEST_NOT_FOUND`): send the whole one. Or it could harm a client (`MANIFEST_INVALID`)",
    },
    door=DOOR,
)
def upload_changed_manifest(hash: str) -> ResponseReturnValue:
    """Store the list of files of a whole tree as what changed in another one.

    The result must have the SHA-256 of the address in the canonical text of the typed dialect.
    """
    account_id = bytes_account(project_caller(), "edit_projects")
    sent = read(ManifestChanges)
    created = put_changed_manifest(
        account_id, sent.base or "", hash, listed_entries(sent.files), sent.deleted
    )
    db.session.commit()
    return jsonify(hash=hash, created=created), 201 if created else 200


@bp.get("/blobs/manifests/<hash>")
@Operation(
    tag="Files of projects",
    caller="key",
    scope=scopes.PROJECTS_READ,
    parameters=[HASH, ORG],
    answers={
        200: ("The text as it was stored", dict[str, Any]),
        403: "Your role in the organisation does not allow it",
        404: "No such manifest is stored",
        503: "The file storage is unavailable",
    },
    door=DOOR,
)
def download_manifest(hash: str) -> Response:
    """Read the list of files of a whole tree, byte for byte as it was stored."""
    account_id = bytes_account(project_caller(), "see_projects")
    text = manifest_text(account_id, hash) if "\0" not in hash else None
    if text is None:
        raise NotFound("There is no such manifest.")
    return Response(text, content_type="application/json", headers={"Cache-Control": IMMUTABLE})


@bp.post("/blobs/gc")
@limiter.limit("30/minute", key_func=key_caller)
@Operation(
    tag="Files of projects",
    caller="key",
    scope=scopes.PROJECTS_WRITE,
    parameters=[ORG],
    body=GarbageRequest,
    answers={
        200: ("What was found, or removed", GarbageAnswer),
        **NO_ACCOUNT,
        **WRONG,
        503: "The file storage is unavailable",
    },
    door=DOOR,
)
def collect_garbage() -> Response:
    """Remove files that nothing has named for a day.

    Keeps what snapshots, workspaces and operations name. By default it only counts.
    """
    account_id = bytes_account(project_caller(), "manage_projects")
    body = parse(GarbageRequest, read_json() if request.content_length else {})
    dry_run = body.dryRun is not False
    found = blob_garbage.collect(account_id, dry_run=dry_run, most=body.maxBlobs or 10_000)
    db.session.commit()
    blob_garbage.remove_packs(files(settings()), account_id, found.packs)
    verb = "would be removed" if dry_run else "were removed"
    return jsonify(
        success=True,
        dryRun=dry_run,
        scannedBlobs=found.scanned,
        orphanedBlobs=found.orphaned,
        freedBytes=found.freed,
        freedMB=_mb(found.freed),
        message=f"{found.orphaned:,} of {found.scanned:,} files {verb}.",
    )


@bp.get("/blobs/stats")
@Operation(
    tag="Files of projects",
    caller="key",
    scope=scopes.PROJECTS_READ,
    parameters=[ORG],
    answers={200: ("Numbers and sizes", StorageAnswer), **NO_ACCOUNT},
    door=DOOR,
)
def storage_stats() -> Response:
    """Get how much an account stores."""
    row = storage_of(bytes_account(project_caller(), "see_projects"))
    total = row.blob_bytes + row.manifest_bytes
    return jsonify(
        blobs={"count": row.blobs, "bytes": row.blob_bytes, "mb": _mb(row.blob_bytes)},
        manifests={"count": row.manifests, "bytes": row.manifest_bytes, "mb": _mb(row.manifest_bytes)},
        total={"bytes": total, "mb": _mb(total)},
    )


def bytes_account(caller: ProjectCaller, capability: str) -> str:
    """The id of the account whose bytes are meant. Raises NotFound, Forbidden."""
    account = chosen_account(caller)
    check_project_role(caller, account.id, capability)
    return account.id


def _hashes() -> list[str]:
    return [each for each in read(HashList).hashes[:LOOKED_AT] if isinstance(each, str) and "\0" not in each]


def _addresses(verb: str) -> Response:
    org = request.args.get("org_id")
    suffix = f"?org_id={quote(org, safe='')}" if org else ""
    return jsonify(urls={each: f"/v1/blobs/{verb}/{quote(each, safe='')}{suffix}" for each in _hashes()})


def _mb(size: int) -> float:
    return round(size / (1 << 20), 2)
