"""Manifests of an account: stored as trees that share their directories, and given back byte for byte."""

import hashlib
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from sqlalchemy import Text, func, literal, select, update
from sqlalchemy.dialects.postgresql import insert

from models.core.cooperative import heavy, in_slices
from models.core.db import db, lock_name
from models.core.errors import DomainError, Invalid
from models.projects.snapshots import directory_tree
from models.projects.snapshots.blob_packs import (
    BlobDamaged,
    HashMismatch,
    add_to_storage,
    blob_bytes,
    check_quota,
    existing_blobs,
    put_blob,
)
from models.projects.snapshots.manifest_text import (
    MAX_ENTRIES,
    Dialect,
    Entry,
    ManifestInvalid,
    TooManyEntries,
    read_entries,
    write_text,
)
from models.projects.snapshots.stored_objects import Manifest, Tree, among_hashes, rows_of_json
from models.projects.snapshots.tree_editing import edited

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

FILE_MODE = 0o644
MAX_MANIFEST = 25 << 20
"""Bytes of the text of one manifest."""
BATCH = 5_000
"""Directories that are read by one query."""


class ManifestTooLarge(DomainError):
    """The text has more than `MAX_MANIFEST` bytes."""

    status = 413
    code = "payload_too_large"

    def __init__(self) -> None:
        super().__init__(
            f"The manifest is larger than {MAX_MANIFEST >> 20} MB. Ignore folders of generated files."
        )


class BaseMissing(Invalid):
    """The manifest that was changed is not stored, or not in the dialect that changes can be made to."""

    code = "manifest_not_found"

    def __init__(self) -> None:
        problem = "'base' names no manifest of the account in its canonical text. Send the whole list."
        super().__init__(problem, fields={"base": problem})


class ManifestUnreadable(DomainError):
    """The text that a client stored is no manifest that the server can read."""

    status = 500
    code = "parse_error"

    def __init__(self) -> None:
        super().__init__("The manifest cannot be read: it is not in the format of the contract.")


def put_manifest(account_id: str, hash: str, text: bytes) -> bool:
    """Store a manifest; whether it was new. Flushes. Raises HashMismatch (400), ManifestInvalid (422) for one that could harm a client,
    ManifestTooLarge, TooManyEntries and QuotaExceeded (413), FilesUnavailable (503)."""
    if len(text) > MAX_MANIFEST:
        raise ManifestTooLarge
    with heavy(len(text), 4 << 20):
        actual = hashlib.sha256(text).hexdigest()
    if actual != hash:
        raise HashMismatch("The text does not have the SHA-256 of the address. Send its bytes unchanged.")
    if use_manifest(account_id, hash) is not None:
        return False
    entries = read_entries(text)
    if entries is None:
        opaque = Manifest(account_id=account_id, hash=hash, dialect="raw", bytes=len(text), entries=0)
        return _insert(opaque, text, {})
    root, listings = directory_tree.build(entries)
    made = Manifest(
        account_id=account_id,
        hash=hash,
        dialect=_dialect(entries, text) or "raw",
        tree_hash=root,
        bytes=len(text),
        entries=len(entries),
    )
    return _insert(made, text, listings)


def put_changed_manifest(
    account_id: str, base: str, hash: str, changed: Sequence[Entry], deleted: Collection[str]
) -> bool:
    """Store the manifest that another one, `base`, becomes if these entries stand in it and these paths do not; whether it was new. Its text in the
    typed dialect has the SHA-256 `hash`. Reads all directories of `base`, and stores those that changed. Flushes. Raises BaseMissing (422), and as `put_manifest`."""
    if use_manifest(account_id, hash) is not None:
        return False
    row = use_manifest(account_id, base)
    if row is None or row.dialect != "typed":
        raise BaseMissing
    changes: dict[str, Entry | None] = dict.fromkeys(deleted)
    for entry in changed:
        if changes.setdefault(entry.path, entry) is not entry:
            raise ManifestInvalid(f"'{entry.path[:100]}' is named twice.")
    root, listings, entries = _edited(account_id, readable_tree(row), changes)
    _put_typed(account_id, entries, lambda: (root, listings), expected=hash)
    return True


def put_entries(account_id: str, entries: Iterable[Entry]) -> str:
    """Store a manifest that the server makes of entries that it read, in the typed dialect; returns its hash. Flushes. Raises as
    `put_manifest`."""
    typed = [_typed(entry) for entry in entries]
    return _put_typed(account_id, typed, lambda: directory_tree.build(typed))


def put_changes(account_id: str, root: str | None, changes: Mapping[str, Entry | None]) -> str:
    """Store the manifest of a tree, None for an empty one, in which these paths have these entries, None for nothing, in the typed
    dialect; returns its hash. Reads all directories, and hashes and stores those that changed. Flushes. Raises as `put_manifest`; ManifestInvalid too if a file
    would be a directory."""
    typed = {path: entry and _typed(entry) for path, entry in changes.items()}
    if root is None:
        return put_entries(account_id, filter(None, typed.values()))
    top, listings, entries = _edited(account_id, root, typed)
    if any(_typed(entry) != entry for entry in entries):
        return put_entries(account_id, entries)  # the tree is of the other dialect
    return _put_typed(account_id, entries, lambda: (top, listings))


def _edited(
    account_id: str, root: str, changes: Mapping[str, Entry | None]
) -> tuple[str, dict[str, bytes], list[Entry]]:
    """The root of a changed tree, the listings of the directories that changed, and all of its entries."""
    top, listings = edited(root, changes, lambda hashes: load_listings(account_id, hashes))
    entries = directory_tree.walk(
        top, lambda hashes: {**listings, **load_listings(account_id, set(hashes) - listings.keys())}
    )
    return top, listings, entries


def _put_typed(
    account_id: str,
    entries: list[Entry],
    tree: Callable[[], tuple[str, dict[str, bytes]]],
    expected: str | None = None,
) -> str:
    """Store a manifest, whose tree is asked for if it is new; returns its hash. Raises HashMismatch unless that is the `expected` one."""
    text = write_text(entries, "typed")
    if len(text) > MAX_MANIFEST:
        raise ManifestTooLarge
    if len(entries) > MAX_ENTRIES:
        raise TooManyEntries
    hash = hashlib.sha256(text).hexdigest()
    if expected not in (None, hash):
        raise HashMismatch(
            "The changed list of files does not have the SHA-256 of the address. Send the whole list."
        )
    if use_manifest(account_id, hash) is None:
        root, listings = tree()
        made = Manifest(
            account_id=account_id,
            hash=hash,
            dialect="typed",
            tree_hash=root,
            bytes=len(text),
            entries=len(entries),
        )
        _insert(made, text, listings)
    return hash


def _typed(entry: Entry) -> Entry:
    """The entry with the mode that the typed dialect needs, or leaves out."""
    if entry.kind == "symlink":
        return entry._replace(mode=None)
    return entry if entry.mode is not None else entry._replace(mode=FILE_MODE)


def use_manifest(account_id: str, hash: str) -> Manifest | None:
    """The account's manifest, or None. It stays for another day, so that what names it now is committed before it could be collected.
    Holds back the collection of the account's garbage until the commit."""
    lock_name(bytes_lock_name(account_id), shared=True)
    statement = (
        update(Manifest)
        .where(Manifest.account_id == account_id, Manifest.hash == hash)
        .values(used_at=func.now())
        .returning(Manifest)
        .execution_options(populate_existing=True)
    )
    return db.session.scalars(statement).one_or_none() if "\0" not in hash else None


def manifest_row(account_id: str, hash: str) -> Manifest | None:
    """The account's manifest, or None."""
    return None if "\0" in hash else db.session.get(Manifest, (account_id, hash))


def manifest_text(account_id: str, hash: str) -> bytes | None:
    """The text of a manifest as it was sent, or None if the account has none with this hash. Raises FilesUnavailable (503), BlobDamaged."""
    row = manifest_row(account_id, hash)
    if row is None:
        return None
    if row.dialect == "raw":
        return blob_bytes(account_id, hash)
    dialect: Dialect = "typed" if row.dialect == "typed" else "untyped"
    text = write_text(tree_entries(account_id, row.tree_hash or ""), dialect)
    if hashlib.sha256(text).hexdigest() != hash:
        raise BlobDamaged(f"manifest {hash} of account {account_id}: its trees make another text")
    return text


def manifest_entries(row: Manifest) -> list[Entry]:
    """The entries of a manifest, not sorted. Raises ManifestUnreadable."""
    return tree_entries(row.account_id, readable_tree(row))


def readable_tree(row: Manifest) -> str:
    """The hash of the tree of a manifest. Raises ManifestUnreadable."""
    if row.tree_hash is None:
        raise ManifestUnreadable
    return row.tree_hash


def tree_entries(account_id: str, root: str) -> list[Entry]:
    """The entries of a tree, not sorted. Raises BlobDamaged if a directory is missing."""
    return directory_tree.walk(root, lambda hashes: load_listings(account_id, hashes))


def tree_changes(account_id: str, before: str | None, after: str | None) -> directory_tree.Changes:
    """What differs between two trees, by path: the entries before and after. Raises BlobDamaged."""
    return directory_tree.changed(before, after, lambda hashes: load_listings(account_id, hashes))


def tree_changes_each(
    account_id: str, pairs: Sequence[tuple[str | None, str | None]]
) -> list[directory_tree.Changes]:
    """What differs in each of these pairs of trees, as `tree_changes`, with the queries of one."""
    return directory_tree.changed_each(pairs, lambda hashes: load_listings(account_id, hashes))


def load_listings(account_id: str, hashes: Collection[str]) -> dict[str, bytes]:
    """The listings of these directories, by hash. Raises BlobDamaged if one is missing."""
    wanted = list(hashes)
    found: dict[str, bytes] = {}
    for start in range(0, len(wanted), BATCH):
        query = select(Tree.hash, Tree.listing).where(
            Tree.account_id == account_id, among_hashes(Tree.hash, wanted[start : start + BATCH])
        )
        for hash, listing in in_slices(db.session.execute(query)):
            found[hash] = zstd.decompress(listing)
    if len(found) < len(wanted):
        missing = next(hash for hash in wanted if hash not in found)
        raise BlobDamaged(f"tree {missing} of account {account_id} is missing")
    return found


def bytes_lock_name(account_id: str) -> str:
    """What writers of manifests share a lock of, and the collection of garbage has alone."""
    return f"project bytes {account_id}"


def _dialect(entries: list[Entry], text: bytes) -> Dialect | None:
    """The dialect whose canonical text this is; None if it is neither's."""
    plain = all(entry.kind == "file" for entry in entries)
    dialects: tuple[Dialect, ...] = ("typed", "untyped") if plain else ("typed",)
    return next((dialect for dialect in dialects if write_text(entries, dialect) == text), None)


def _insert(made: Manifest, text: bytes, listings: dict[str, bytes]) -> bool:
    account_id = made.account_id
    check_quota(account_id, made.bytes)
    new = _insert_trees(account_id, listings)
    _keep_files(account_id, [listings[each] for each in new])
    columns = ("account_id", "hash", "dialect", "tree_hash", "bytes", "entries")
    added = insert(Manifest).values({name: getattr(made, name) for name in columns})
    created = db.session.scalars(added.on_conflict_do_nothing().returning(Manifest.hash)).one_or_none()
    if created is None:
        return False
    if made.dialect == "raw":
        put_blob(account_id, made.hash, text)
    add_to_storage(account_id, manifests=1, manifest_bytes=made.bytes)
    return True


def _insert_trees(account_id: str, listings: dict[str, bytes]) -> set[str]:
    """Insert the directories that the account does not have; returns their hashes."""
    new: set[str] = set()
    hashes = sorted(listings)
    for start in range(0, len(hashes), BATCH):
        batch = hashes[start : start + BATCH]
        had = select(Tree.hash).where(Tree.account_id == account_id, among_hashes(Tree.hash, batch))
        missing = set(batch) - set(db.session.scalars(had))
        rows = [
            {"hash": hash, "listing": zstd.compress(listings[hash], level=3).hex()}
            for hash in in_slices(sorted(missing))
        ]
        if rows:
            sent = rows_of_json(rows, {"hash": Text(), "listing": Text()})
            listed = select(literal(account_id), sent.c.hash, func.decode(sent.c.listing, "hex"))
            added = insert(Tree).from_select(["account_id", "hash", "listing"], listed.order_by(sent.c.hash))
            db.session.execute(added.on_conflict_do_nothing())
        new |= missing
    return new


def _keep_files(account_id: str, listings: Iterable[bytes]) -> None:
    """Keep for a day the blobs that new directories name."""
    hashes: set[str] = set()
    for listing in in_slices(listings):
        hashes |= directory_tree.children(listing)[1]
    if hashes:
        existing_blobs(account_id, hashes)
