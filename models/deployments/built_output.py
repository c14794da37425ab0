"""What a build made, stored among the bytes of its account: the folder of a site as its files, a program's whole tree as an archive in pieces.

The archive is packed and unpacked in the sandbox: the server never reads names, links and permissions that a build wrote. Its pieces are cut where
the content chooses, so that builds share most of them.
"""

import hashlib
from collections.abc import Iterator, Sequence

from models.core import jobs
from models.core.errors import DomainError, Invalid, NotFound
from models.deployments.deployment_adapter import DeploymentFailed
from models.projects.snapshots.blob_packs import MAX_BLOB, blob_bytes, put_blobs
from models.projects.snapshots.content_chunks import LARGE, cut
from models.projects.snapshots.manifest_store import manifest_row, put_entries, readable_tree, tree_entries
from models.projects.snapshots.manifest_text import Entry
from models.runners import FileChange, ProcessWorkplace, TreeChanges, Workplace

MAX_FILES, MAX_BYTES = 20_000, 256 << 20
"""Of the built folder of a site."""
BATCH = 12 << 20
PACK_SECONDS = 300.0
LOST = "What was built for it is no longer stored. Deploy its snapshot anew."


def find_folder(place: Workplace, wanted: str | None, folders: Sequence[str]) -> str:
    """The folder of a workplace that has the built site: the one that is wanted, else the first of these with an index.html. Raises DeploymentFailed."""
    for folder in [wanted] if wanted else folders:
        try:
            names = place.list("" if folder == "." else folder, limit=MAX_FILES)
        except (NotFound, Invalid):
            continue
        if "index.html" in names:
            return folder
    where = f"the folder {wanted}" if wanted else f"{', '.join(folders[:-1])} or {folders[-1]}"
    raise DeploymentFailed(
        f"It was built, but there is no index.html in {where}. Name its folder in the settings."
    )


def read_folder(place: Workplace, folder: str) -> TreeChanges:
    """The files of a folder of a workplace; links are left out. Raises DeploymentFailed for too many files or bytes."""
    found, size = TreeChanges(), 0
    waiting = ["" if folder == "." else folder]
    prefix = len(waiting[0]) + 1 if waiting[0] else 0
    while waiting:
        above = waiting.pop()
        for name in place.list(above, limit=MAX_FILES + 1):
            path = f"{above}/{name}" if above else name
            if name.endswith("/"):
                waiting.append(path[:-1])
                continue
            try:
                content = place.read(path, max_bytes=MAX_BLOB)
            except NotFound:
                continue
            except Invalid as invalid:
                found.refused[path] = invalid.message
                continue
            size += len(content)
            found[path[prefix:]] = FileChange(content)
            if len(found) > MAX_FILES or size > MAX_BYTES:
                raise DeploymentFailed(
                    f"The folder {folder} has more than {MAX_FILES:,} files or {MAX_BYTES >> 20} MB."
                )
    return found


def pack(place: ProcessWorkplace, account_id: str) -> str:
    """Store all files of a workplace as an archive; returns the hash of the manifest that names its pieces. Commits the pieces as they come, and then that.
    Raises DeploymentFailed, QuotaExceeded (413), FilesUnavailable (503)."""
    process = place.start_process("exec tar -cf - . 2>/dev/null", seconds=PACK_SECONDS)
    entries: list[Entry] = []
    try:
        buffer = bytearray()
        while data := process.stdout.read(1 << 20):
            buffer += data
            if len(buffer) >= BATCH + LARGE:
                *pieces, rest = cut(bytes(buffer))
                entries += _stored(account_id, pieces, len(entries))
                buffer = bytearray(rest)
        entries += _stored(account_id, cut(bytes(buffer)) if buffer else [], len(entries))
        done = process.wait()
    finally:
        place.end_process(process)
    if not done.succeeded:
        raise DeploymentFailed("What was built cannot be packed: some of its files cannot be read.")
    with jobs.transaction():
        return put_entries(account_id, entries)


def unpack(place: ProcessWorkplace, account_id: str, manifest: str) -> None:
    """Put the files of an archive into an empty workplace. Raises DeploymentFailed if they are lost or do not fit, FilesUnavailable (503), BlobDamaged."""
    with jobs.transaction():
        row = manifest_row(account_id, manifest)
        if row is None:
            raise DeploymentFailed(LOST)
        pieces = sorted(tree_entries(account_id, readable_tree(row)), key=lambda each: each.path)
    process = place.start_process("exec tar -xf - 2>&1", seconds=PACK_SECONDS, stdin=True)
    try:
        assert process.stdin is not None
        try:
            for data in _contents(account_id, pieces):
                left = memoryview(data)
                while left:
                    left = left[process.stdin.write(left) :]
            process.stdin.close()
        except BrokenPipeError:
            pass  # how it ended says why
        done = process.communicate()
    finally:
        place.end_process(process)
    if not done.succeeded:
        raise DeploymentFailed("What was built for it does not fit into the sandbox.")


def _stored(account_id: str, pieces: Sequence[bytes], start: int) -> list[Entry]:
    if not pieces:
        return []
    blobs = [(hashlib.sha256(piece).hexdigest(), piece) for piece in pieces]
    try:
        with jobs.transaction():
            put_blobs(account_id, blobs)
    except DomainError as error:
        raise DeploymentFailed(f"What was built cannot be stored: {error.message}") from None
    return [
        Entry(f"{number:06d}", "file", 0o644, hash, len(piece))
        for number, (hash, piece) in enumerate(blobs, start=start)
    ]


def _contents(account_id: str, pieces: Sequence[Entry]) -> Iterator[bytes]:
    for each in pieces:
        with jobs.transaction():
            data = blob_bytes(account_id, each.hash or "")
        if data is None:
            raise DeploymentFailed(LOST)
        yield data
