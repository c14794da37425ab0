"""A working copy: a folder with `.stoa` in it, which says what it belongs to, and keeps snapshots and bytes that are not sent yet."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stoa.failures import Failure
from stoa.file_scan import FolderScan, Scanned, read_file, replace
from stoa.ignore_rules import FILES
from stoa.object_packs import ObjectPacks
from stoa.quick_look import left_out_if_same, remember
from stoa.tree_text import HASH, TreeEntry, changes, read_tree, sha

FOLDER = ".stoa"
LOCK_WAIT = 10
"""Seconds until another command in the folder ends."""


class WorkingCopy:
    """The folder `root`. `config` says which server, project and workspace it belongs to; `state` which snapshot it has (`head`), and what
    the server's workspace had when both were compared last (`remote`: snapshot and manifest)."""

    def __init__(self, root: Path) -> None:
        self.root, self.place = root, root / FOLDER
        self.objects = ObjectPacks(self.place / "objects")
        self._load()

    def _load(self) -> None:
        self.config: dict[str, Any] = self._read("config.json")
        self.state: dict[str, Any] = {"head": None, "remote": [None, None], **self._read("state.json", {})}

    @classmethod
    def create(cls, root: Path, config: dict[str, Any]) -> WorkingCopy:
        """Make a folder a working copy."""
        place = root / FOLDER
        for name in ("", "objects", "manifests", "snapshots"):
            (place / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        replace(place / "config.json", _json(config))
        return cls(root)

    @classmethod
    def around(cls, start: Path) -> WorkingCopy:
        """The working copy that a folder lies in. Raises Failure."""
        for root in (start, *start.parents):
            if (root / FOLDER / "config.json").is_file():
                return cls(root)
        raise Failure(
            "This folder belongs to no project. Run 'init' for a new one, or 'clone' for one of the server.",
            code="NO_WORKING_COPY",
        )

    def save(self, **state: Any) -> None:
        """Remember a new state, at once or not at all."""
        self.state.update(state)
        replace(self.place / "state.json", _json(self.state))

    def configure(self, **config: Any) -> None:
        """Remember what the folder belongs to."""
        self.config.update(config)
        replace(self.place / "config.json", _json(self.config))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other programs of this client out, and read what they did. Raises Failure if one is at work for longer than `LOCK_WAIT`; a
        lock ends with its program."""
        end = time.monotonic() + LOCK_WAIT
        with open(self.place / "lock", "a+b") as file:
            while not _lock(file):
                if time.monotonic() >= end:
                    raise Failure(
                        "Another command is at work in this folder. Try again when it has ended.",
                        code="LOCKED",
                    )
                time.sleep(0.1)
            self._load()
            yield

    def scan(self, known: dict[str, TreeEntry]) -> Scanned:
        """What lies in the folder now, beside the files of the head."""
        found = FolderScan(self.root, self.place / "stat_cache.json", known).read()
        # the content of an ignore file that is a link can change behind it
        found.settled &= not any(os.path.islink(self.root / each) for each in FILES)
        if not changes(known, found.tree):
            self.remember(found)
        return found

    def remember(self, found: Scanned) -> None:
        """Note that this is what the head has."""
        if found.settled:
            remember(str(self.place / "quick_look"), self.state["head"], found.left_out, found.looks)

    def left_out_if_same(self) -> list[str] | None:
        """If the folder is as the head has it, seen at a glance: what belongs to no snapshot. Else None, and `scan` says more."""
        return left_out_if_same(str(self.root), str(self.place / "quick_look"), self.state["head"])

    # snapshots

    def snapshot(self, id: str) -> dict[str, Any] | None:
        """What is known here of a snapshot, or None."""
        return self._read(f"snapshots/{_name(id)}.json", None) if id else None

    def keep_snapshot(self, record: dict[str, Any]) -> None:
        """Remember a snapshot: `id`, `manifest_hash`, `parents`, and whether it is `sent`."""
        replace(self.place / "snapshots" / f"{_name(record['id'])}.json", _json(record))

    def unsent(self, id: str | None) -> list[dict[str, Any]]:
        """The snapshots up to this one that the server does not have, parents first."""
        order: dict[str, dict[str, Any]] = {}
        waiting: list[tuple[str, bool]] = [(id, False)] if id else []
        while waiting:
            each, ready = waiting.pop()
            record = self.snapshot(each)
            if record is None or record["sent"] or each in order:
                continue
            if ready:
                order[each] = record
            else:
                waiting.append((each, True))
                waiting += [(parent, False) for parent in reversed(record["parents"])]
        return list(order.values())

    def tree_of(self, id: str | None) -> dict[str, TreeEntry]:
        """The tree of a snapshot that is known here; empty for none."""
        record = self.snapshot(id) if id else None
        if record is None:
            return {}
        text = self.manifest(record["manifest_hash"])
        if text is None:
            raise Failure(f"The list of files of snapshot {id} is lost here. Clone the project again.")
        return read_tree(text)

    # manifests and files

    def manifest(self, hash: str) -> bytes | None:
        """The text of a manifest that is kept here, or None."""
        return self._checked(self.place / "manifests" / _name(hash), hash)

    def keep_manifest(self, text: bytes) -> str:
        """Keep the text of a manifest. Returns its hash."""
        hash = sha(text)
        if not (self.place / "manifests" / hash).exists():
            replace(self.place / "manifests" / hash, text)
        return hash

    def file(self, path: str, hash: str) -> bytes | None:
        """The bytes of a file of the folder, if it has this content."""
        place = self.root / path
        data = read_file(place) if place.is_file() else b""
        return data if sha(data) == hash else None

    def tidy(self) -> None:
        """Forget bytes, lists and snapshots that nothing needs any more, once every snapshot is sent: the server has them."""
        head = self.state["head"]
        if self.state.get("pending") or self.unsent(head):
            return
        record = self.snapshot(head) if head else None
        needed = {record["manifest_hash"] if record else None, self.state["remote"][1]}
        names = {f"{_name(each)}.json" for each in (head, self.state["remote"][0]) if each}
        self.objects.clear()
        for place in (self.place / "manifests").iterdir():
            if place.name not in needed:
                place.unlink()
        for place in (self.place / "snapshots").iterdir():
            if place.name not in names:
                place.unlink()

    def _checked(self, place: Path, hash: str) -> bytes | None:
        if not place.is_file():
            return None
        data = read_file(place)
        if sha(data) == hash:
            return data
        place.unlink()  # a crash of the computer left half of it
        return None

    def _read(self, name: str, default: Any = ...) -> Any:
        try:
            return json.loads((self.place / name).read_bytes())
        except FileNotFoundError:
            if default is not ...:
                return default
            raise
        except ValueError:
            raise Failure(f"{self.place / name} is damaged. Clone the project into another folder.") from None


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1).encode()


def _name(id: str) -> str:
    """An id as the name of a file: those of the server are taken as they are only if they are harmless."""
    return id if HASH.fullmatch(id) or (id.replace("-", "").isalnum() and id.isascii()) else sha(id.encode())


def _lock(file: Any) -> bool:
    try:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined, unused-ignore]
    except OSError:
        return False
    return True
