"""The texts that a preview of a sync shows: both sides of decisions, drafts, and merged files."""

from models.projects.snapshots.blob_packs import read_blobs
from models.projects.sync.sync_plan import Plan, shown_files

MAX_SHOWN = 200_000
"""Bytes of a file that is shown."""
MAX_ALL = 4 << 20
"""Bytes of all files that are shown."""


def shown_texts(account_id: str, plan: Plan) -> dict[str, str]:
    """The texts of a plan by hash, without those that are not text, too long, or past the limit of all. Raises FilesUnavailable (503),
    BlobDamaged."""
    wanted: dict[str, None] = {}
    left = MAX_ALL
    for entry in shown_files(plan):
        if entry.hash is not None and entry.hash not in wanted and entry.size <= min(left, MAX_SHOWN):
            wanted[entry.hash] = None
            left -= entry.size
    texts = {}
    for hash, data in read_blobs(account_id, list(wanted)) if wanted else ():
        try:
            text = data.decode()
        except UnicodeDecodeError:
            continue
        if "\0" not in text:
            texts[hash] = text
    return texts
