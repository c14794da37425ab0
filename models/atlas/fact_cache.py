"""What is known of the files of an account, by their bytes: read once, and kept until the bytes are collected."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from sqlalchemy import Boolean, Integer, Text, select
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, insert

from models.atlas.atlas_tables import CodeFacts
from models.atlas.fact_reading import PARSER_VERSION
from models.atlas.fact_runner import FactRun, Facts, UnreadFile
from models.core.db import db
from models.index.document_sources import ACCOUNT_MARK
from models.projects.snapshots.blob_packs import read_blobs
from models.projects.snapshots.stored_objects import among_hashes, rows_of_json

Transaction = Callable[[], AbstractContextManager[None]]
BATCH_FILES, BATCH_BYTES = 400, 8 << 20
"""How much is read at once."""
FactKey = tuple[str, str]
"""The SHA-256 of a file and the language that it is read in."""


class KnownFile(NamedTuple):
    """What is known without the facts themselves."""

    lines: int
    parsed: bool
    failed: bool


class WantedFile(NamedTuple):
    """A file to read, at one path of a tree."""

    path: str
    sha256: str
    language: str
    size: int


class ReadBatch(NamedTuple):
    """Files, the bytes of those that are stored, and the facts of each: `new` are not in the cache yet."""

    files: Sequence[WantedFile]
    data: Mapping[str, bytes]
    facts: Mapping[FactKey, Facts]
    new: Collection[FactKey]


def known_files(account_id: str, hashes: Collection[str]) -> dict[FactKey, KnownFile]:
    """What the cache knows of the files with these hashes, in the current version."""
    query = select(
        CodeFacts.sha256, CodeFacts.language, CodeFacts.lines, CodeFacts.parsed, CodeFacts.failed
    ).where(*_mine(account_id, hashes))
    return {
        (sha256, language): KnownFile(lines, parsed, failed)
        for sha256, language, lines, parsed, failed in db.session.execute(query)
    }


def facts_of(account_id: str, keys: Collection[FactKey]) -> dict[FactKey, Facts]:
    """The facts of these files that the cache has."""
    if not keys:
        return {}
    query = select(CodeFacts.sha256, CodeFacts.language, CodeFacts.facts)
    rows = db.session.execute(query.where(*_mine(account_id, {sha256 for sha256, _ in keys})))
    wanted = set(keys)
    return {(sha, language): facts for sha, language, facts in rows if (sha, language) in wanted}


def read_batches(
    transaction: Transaction, account_id: str, files: Sequence[WantedFile]
) -> Iterator[ReadBatch]:
    """The files in batches, each with its bytes and facts; the next one is read while the caller has the last. Those whose bytes no client
    has sent have none. Raises FilesUnavailable (503), BlobDamaged."""
    batches = list(reading_batches(files))
    reading = _Reading(transaction, account_id, batches[0]) if batches else None
    try:
        for at in range(len(batches)):
            assert reading is not None
            done = reading.batch()
            reading = _Reading(transaction, account_id, batches[at + 1]) if at + 1 < len(batches) else None
            yield done
    finally:
        if reading is not None:
            reading.close()


def reading_batches(files: Sequence[WantedFile]) -> Iterator[list[WantedFile]]:
    """The files in batches, as `read_batches` reads them."""
    batch: list[WantedFile] = []
    size = 0
    for each in files:
        if batch and (len(batch) >= BATCH_FILES or size + each.size > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(each)
        size += each.size
    if batch:
        yield batch


def store_facts(account_id: str, batch: ReadBatch) -> None:
    """Keep what was read. Flushes."""
    rows = [_row(account_id, key, batch.facts[key]) for key in batch.new]
    if not rows:
        return
    types: dict[str, Any] = {
        **dict.fromkeys(("account_id", "sha256", "language", "package"), Text()),
        **dict.fromkeys(("version", "lines"), Integer()),
        **dict.fromkeys(("parsed", "failed"), Boolean()),
        **dict.fromkeys(("imports", "facts"), JSONB()),
        "names": ARRAY(Text),
    }
    sent = rows_of_json(rows, types)
    added = insert(CodeFacts).from_select(list(types), select(*(sent.c[name] for name in types)))
    changed = {
        name: added.excluded[name] for name in types if name not in ("account_id", "sha256", "language")
    }
    db.session.execute(
        added.on_conflict_do_update(index_elements=["account_id", "sha256", "language"], set_=changed)
    )


class _Reading:
    """One batch whose files are being read."""

    def __init__(self, transaction: Transaction, account_id: str, files: Sequence[WantedFile]) -> None:
        self._files = files
        hashes = {each.sha256 for each in files}
        with transaction():
            self._data = dict(read_blobs(account_id, hashes))
            self._facts = facts_of(account_id, {(each.sha256, each.language) for each in files})
        unread = {
            (each.sha256, each.language)
            for each in files
            if each.sha256 in self._data and (each.sha256, each.language) not in self._facts
        }
        self._unread = sorted(unread)
        self._run = (
            FactRun(
                [
                    UnreadFile(f"{sha256} {language}", language, self._data[sha256])
                    for sha256, language in self._unread
                ]
            )
            if unread
            else None
        )

    def batch(self) -> ReadBatch:
        """Wait for it."""
        found = self._run.results() if self._run is not None else {}
        new = {key: found[f"{key[0]} {key[1]}"] for key in self._unread}
        return ReadBatch(self._files, self._data, {**self._facts, **new}, new.keys())

    def close(self) -> None:
        if self._run is not None:
            self._run.close()


def _row(account_id: str, key: FactKey, facts: Facts) -> dict[str, Any]:
    defined = {each[1].rpartition(".")[2] for each in facts.get("defs", ())}
    return {
        "account_id": account_id,
        "sha256": key[0],
        "language": key[1],
        "version": PARSER_VERSION,
        "lines": facts["lines"],
        "parsed": facts["parsed"],
        "failed": facts.get("failed", False),
        "package": facts.get("package"),
        "imports": facts.get("imports", []),
        "names": [ACCOUNT_MARK + account_id, *sorted(defined.union(facts.get("refs", ())))],
        "facts": {name: facts.get(name) or [] for name in ("defs", "spans")}
        | {name: facts.get(name) or {} for name in ("refs", "calls")},
    }


def _mine(account_id: str, hashes: Collection[str]) -> tuple[Any, ...]:
    return (
        CodeFacts.account_id == account_id,
        CodeFacts.version == PARSER_VERSION,
        among_hashes(CodeFacts.sha256, hashes),
    )
