"""The texts that a preview of a sync shows: both sides of decisions, drafts, and merged files."""

from models.core.db import db
from models.projects.project import Project
from models.projects.snapshots.blob_packs import read_blobs
from models.projects.sync.sync_plan import shown_files
from models.projects.sync.sync_preview import SyncPreview

MAX_SHOWN = 200_000
"""Bytes of a file that is shown."""
MAX_ALL = 4 << 20
"""Bytes of all files that are shown."""


def shown_texts(preview: SyncPreview) -> dict[str, str]:
    """The texts of a preview by hash, without those that are not text, too long, or past the limit of all. Raises FilesUnavailable (503),
    BlobDamaged."""
    wanted: dict[str, None] = {}
    left = MAX_ALL
    for entry in shown_files(preview.plan):
        if entry.hash is not None and entry.hash not in wanted and entry.size <= min(left, MAX_SHOWN):
            wanted[entry.hash] = None
            left -= entry.size
    texts: dict[str, str] = {}
    project = db.session.get(Project, preview.project_id)
    if project is None or not wanted:
        return texts
    for hash, data in read_blobs(project.account_id, list(wanted)):
        text = text_of(data)
        if text is not None:
            texts[hash] = text
    return texts


def text_of(data: bytes) -> str | None:
    """The bytes as a text, or None if they are none."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text
