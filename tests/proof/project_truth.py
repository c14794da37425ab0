"""What the clients of the proof of projects know: the bytes of every file, the files of every tree, and which moves the server confirmed."""

import hashlib
import json
import random
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from models.projects.snapshots.manifest_text import Entry, write_text

Tree = dict[str, str]
"""The hash of the content of each file, by path."""
LINES = 12
TEXTS = [f"{folder}{name}.txt" for folder in ("", "docs/", "src/a/") for name in ("one", "two", "three")]
BINARIES = ["data.bin", "src/b/c/d.bin", "assets/logo.bin"]


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class Move:
    """A move that the server confirmed, or may have done: the operation's kind and the states that the client expects afterwards."""

    workspace: str
    kind: str
    snapshot_id: str | None = None
    manifest_hash: str | None = None
    undoes: str | None = None
    preview: str | None = None
    base: str | None = None
    decisions: Mapping[str, str] = field(default_factory=dict)


class Truth:
    """Shared by all clients. `bytes` are the files by hash, `trees` the files of a manifest, `snapshots` the manifest of each snapshot
    that the server confirmed, `moves` the confirmed ones by workspace and version, `unsure` those whose answer a kill cut off."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.bytes: dict[str, bytes] = {}
        self.trees: dict[str, Tree] = {}
        self.snapshots: dict[tuple[str, str], str] = {}
        self.moves: dict[tuple[str, int], Move] = {}
        self.confirmed: dict[str, Move] = {}
        self.unsure: list[Move] = []
        self.attempts: list[Move] = []
        self.done: dict[str, int] = {}
        self.faults: list[str] = []

    def count(self, what: str) -> int:
        """Count something that happened; returns how often it did."""
        with self.lock:
            self.done[what] = self.done.get(what, 0) + 1
            return self.done[what]

    def fault(self, message: str) -> None:
        with self.lock:
            self.faults.append(message)

    def content(self, data: bytes) -> str:
        """Remember a file; its hash."""
        hash = sha(data)
        with self.lock:
            self.bytes[hash] = data
        return hash

    def manifest(self, tree: Tree) -> tuple[str, bytes]:
        """Remember a tree; the hash and the text of its manifest."""
        entries = [Entry(path, "file", 420, hash, len(self.bytes[hash])) for path, hash in tree.items()]
        text = write_text(entries, "typed")
        hash = sha(text)
        with self.lock:
            self.trees[hash] = dict(tree)
        return hash, text

    def learn(self, hash: str, text: bytes) -> Tree:
        """Remember the tree of a manifest that the server made. Its bytes are checked against its hash."""
        assert sha(text) == hash, f"the manifest {hash} has other bytes"
        files = json.loads(text)["files"]
        tree = {entry["path"]: entry["hash"] for entry in files if entry["type"] == "file"}
        with self.lock:
            self.trees[hash] = tree
        return tree


class Turnstile:
    """Clients pass one step at a time, together; whoever goes `alone` waits for the steps that have begun, and stops new ones."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._closed = 0

    @contextmanager
    def step(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._closed)
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Not within a step."""
        with self._changed:
            self._closed += 1
            self._changed.wait_for(lambda: not self._inside)
        try:
            yield
        finally:
            with self._changed:
                self._closed -= 1
                self._changed.notify_all()


def edited(truth: Truth, tree: Tree, chance: random.Random) -> Tree:
    """The tree with one to four files added, changed or removed. Contents name their path, so that no removal looks like a move."""
    made = dict(tree)
    for _ in range(chance.randint(1, 4)):
        path = chance.choice(TEXTS * 3 + BINARIES)
        if path in made and chance.random() < 0.12:
            del made[path]
        elif path in BINARIES:
            made[path] = truth.content(_binary(path, chance))
        else:
            made[path] = truth.content(_text(path, truth.bytes.get(made.get(path, ""), b""), chance))
    return made or {TEXTS[0]: truth.content(_text(TEXTS[0], b"", chance))}


def _text(path: str, before: bytes, chance: random.Random) -> bytes:
    lines = before.decode().splitlines() or [f"{path} line {number}" for number in range(LINES)]
    for _ in range(chance.randint(1, 2)):
        # a few values come again, so that sides agree, and contents return
        number = chance.randrange(LINES)
        value = chance.choice([str(chance.randrange(3)), f"{chance.getrandbits(60):x}"])
        lines[number] = f"{path} line {number} {value}"
    return ("\n".join(lines) + "\n").encode()


def _binary(path: str, chance: random.Random) -> bytes:
    seed = chance.choice([chance.randrange(4), chance.getrandbits(60)])
    size = chance.choice([0, 100, 5_000, 60_000])
    return path.encode() + b"\0" + random.Random(f"{path} {seed}").randbytes(size)


def undone(before: Tree, after: Tree, current: Tree, decisions: Mapping[str, str]) -> Tree:
    """`current` without what led from `before` to `after`, by these decisions."""
    made = dict(current)
    for path in before.keys() | after.keys():
        was, then, here = before.get(path), after.get(path), current.get(path)
        if was == then or here == was or decisions.get(path) == "keep":
            continue
        if was is None:
            made.pop(path, None)
        else:
            made[path] = was
    return made


def merge_fault(truth: Truth, base: Tree, trees: tuple[Tree, Tree, Tree], move: Move) -> str | None:
    """What is wrong with the merge of workspace and main into a result; None if each change of either side is in it, or was decided."""
    for path in base.keys() | trees[0].keys() | trees[1].keys() | trees[2].keys():
        was, (ours, theirs, result) = base.get(path), (tree.get(path) for tree in trees)
        choice = move.decisions.get(path)
        if choice is not None:
            right = result == (theirs if choice == "use_main" else ours)
        elif ours == theirs or theirs == was:
            right = result == ours
        elif ours == was:
            right = result == theirs
        else:
            right = None not in (ours, theirs, result) and _lines_merged(
                *(truth.bytes.get(hash or "", b"") for hash in (was, ours, theirs, result))
            )
        if not right:
            return f"{path}: {was} became {ours} and {theirs}, merged {result}, decided {choice}"
    return None


def _lines_merged(base: bytes, ours: bytes, theirs: bytes, result: bytes) -> bool:
    sides = [text.splitlines() for text in (base, ours, theirs, result)]
    return all(len(side) == LINES for side in sides) and all(
        merged == (theirs if ours == was else ours)
        for was, ours, theirs, merged in zip(*sides, strict=True)
        if theirs != was or ours != was
    )
