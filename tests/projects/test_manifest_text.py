"""Manifests: known answers of both dialects, hostile ones, and that every text is told apart from what it is not."""

import json
from collections.abc import Collection
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.projects.snapshots import directory_tree
from models.projects.snapshots.manifest_text import (
    MAX_DEPTH,
    MAX_ENTRIES,
    MAX_PATH,
    Dialect,
    Entry,
    ManifestInvalid,
    TooManyEntries,
    read_entries,
    write_text,
)
from models.projects.snapshots.tree_editing import edited
from tests.projects.project_calls import indented, sha

HELLO = sha("hello")
FILE = {"path": "a.txt", "hash": HELLO, "size": 5, "mode": 420}
ODD = [
    Entry("a&b.txt", "file", 420, HELLO, 5),
    Entry("dir", "dir", 493),
    Entry("dir/é<x>.txt", "file", 420, sha("")),
    Entry("ln", "symlink", target="dir"),
]


@pytest.mark.parametrize(
    ("entries", "dialect", "hash"),
    [
        ([], "typed", "ae430cc749b673d2f62795880ca53904a19351c271068b31fece8428431b918f"),
        (
            [Entry("a.txt", "file", 420, HELLO, 5)],
            "untyped",
            "35e1e7ea8e90270ae8e085b65efafa1cb63a17797201698dcec01d839adeecda",
        ),
        (
            [Entry("a.txt", "file", 420, HELLO, 5)],
            "typed",
            "9ac06c753d3aeeaa4c8910d97e2bb8a1933ec03295f82f84f03d1ab2d173fd6e",
        ),
        (ODD, "typed", "c7de9b22f9f07f53d1402436ad3b92b7d07556281f52218a68231e1192794aae"),
    ],
)
def test_texts_have_the_hashes_of_the_contract(entries: list[Entry], dialect: Dialect, hash: str) -> None:
    text = write_text(reversed(entries), dialect)
    assert sha(text) == hash
    assert read_entries(text) == entries


HOSTILE: list[tuple[str, Any]] = [
    ("above", {**FILE, "path": "../a"}),
    ("above inside", {**FILE, "path": "a/../../b"}),
    ("above on Windows", {**FILE, "path": "a\\..\\b"}),
    ("here", {**FILE, "path": "./a"}),
    ("empty segment", {**FILE, "path": "a//b"}),
    ("ends in a slash", {**FILE, "path": "a/"}),
    ("empty", {**FILE, "path": ""}),
    ("absolute", {**FILE, "path": "/etc/passwd"}),
    ("absolute on Windows", {**FILE, "path": "\\x"}),
    ("a drive", {**FILE, "path": "C:\\x"}),
    ("a drive with a slash", {**FILE, "path": "c:/x"}),
    ("NUL", {**FILE, "path": "a\0b"}),
    ("too long", {**FILE, "path": "a" * (MAX_PATH + 1)}),
    ("too deep", {**FILE, "path": "a/" * MAX_DEPTH + "b"}),
    ("no path", {"hash": HELLO, "size": 5, "mode": 420}),
    ("path of another type", {**FILE, "path": 7}),
    ("short hash", {**FILE, "hash": "ab"}),
    ("upper case hash", {**FILE, "hash": HELLO.upper()}),
    ("no hash", {"path": "a"}),
    ("hash of another type", {**FILE, "hash": 7}),
    ("negative size", {**FILE, "size": -1}),
    ("size as text", {**FILE, "size": "5"}),
    ("size as a fraction", {**FILE, "size": 5.5}),
    ("huge size", {**FILE, "size": 2**60}),
    ("mode with more bits", {**FILE, "mode": 0o100644}),
    ("mode as text", {**FILE, "mode": "644"}),
    ("unknown type", {**FILE, "type": "socket"}),
    ("type of another type", {**FILE, "type": ["file"]}),
    ("another spelling of a key", {**FILE, "Path": "../x"}),
    ("no object", "a.txt"),
    ("link without target", {"type": "symlink", "path": "a"}),
    ("link to nothing", {"type": "symlink", "path": "a", "target": ""}),
    ("absolute link", {"type": "symlink", "path": "a", "target": "/etc"}),
    ("absolute link on Windows", {"type": "symlink", "path": "a", "target": "C:\\x"}),
    ("link above the root", {"type": "symlink", "path": "a", "target": "../x"}),
    ("link above the root from below", {"type": "symlink", "path": "d/a", "target": "x/../../../y"}),
    ("link above the root on Windows", {"type": "symlink", "path": "a", "target": "..\\x"}),
    ("link with NUL", {"type": "symlink", "path": "a", "target": "b\0"}),
]


@pytest.mark.parametrize("entry", [entry for _, entry in HOSTILE], ids=[name for name, _ in HOSTILE])
def test_hostile_entries_are_refused(entry: Any) -> None:
    with pytest.raises(ManifestInvalid, match=r"files\[1\]"):
        read_entries(indented([{**FILE, "path": "0"}, entry]))


@pytest.mark.parametrize(
    "entries",
    [
        [FILE, FILE],
        [FILE, {**FILE, "path": "a.txt/b"}],
        [FILE, {"type": "dir", "path": "a.txt", "mode": 493}],
        [{"type": "dir", "path": "d", "mode": 493}, {"type": "dir", "path": "d", "mode": 448}],
        [{"type": "symlink", "path": "l", "target": "d"}, {**FILE, "path": "l/x"}],
    ],
)
def test_paths_named_twice_or_below_a_file_are_refused(entries: list[Any]) -> None:
    read = read_entries(indented(entries))
    assert read is not None
    with pytest.raises(ManifestInvalid):
        directory_tree.build(read)


@pytest.mark.parametrize(
    "entry",
    [
        {**FILE, "path": "..a/b..c"},
        {**FILE, "path": "a..b"},
        {**FILE, "path": "line\nbreak"},
        {**FILE, "path": "back\\slash"},
        {"type": "symlink", "path": "d/l", "target": "../x"},
        {"type": "symlink", "path": "l", "target": "."},
    ],
)
def test_unusual_entries_are_accepted(entry: Any) -> None:
    assert read_entries(indented([entry])) is not None


def test_a_manifest_with_too_many_entries_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(TooManyEntries):
        read_entries(b'{"version":"1","files":[' + b'{"path":"a"},' * (MAX_ENTRIES + 1))


@pytest.mark.parametrize("text", [b"", b"hello", b"[]", b"{}", b'{"files":{}}', b"\xff", b"[" * 100_000])
def test_what_is_no_manifest_is_told_apart(text: bytes) -> None:
    assert read_entries(text) is None


@pytest.mark.parametrize(
    "text",
    [
        b'{"version":"2","files":[]}',
        b'{"version":1,"files":[]}',
        b'{"version":"1","files":[{"path":"\\ud800"}]}',
    ],
)
def test_manifests_that_other_readers_understand_differently_are_refused(text: bytes) -> None:
    with pytest.raises(ManifestInvalid):
        read_entries(text)


names = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="/\\\0"), min_size=1, max_size=4
).filter(lambda name: name not in (".", "..") and ":" not in name)
contents = st.tuples(st.sampled_from([420, 493]), st.sampled_from(["", "a", "bb", "ccc"]))
trees = st.dictionaries(st.lists(names, min_size=1, max_size=3).map("/".join), contents, max_size=12)


def without_clashes(files: dict[str, tuple[int, str]]) -> list[Entry]:
    """Entries of the files that lie below no other file."""
    found = []
    for path, (mode, text) in sorted(files.items()):
        above = path.split("/")
        if not any("/".join(above[:count]) in files for count in range(1, len(above))):
            found.append(Entry(path, "file", mode, sha(text), len(text)))
    return found


@given(trees, st.sampled_from(["typed", "untyped"]))
def test_a_text_is_made_again_from_its_tree(files: dict[str, tuple[int, str]], dialect: Dialect) -> None:
    text = write_text(without_clashes(files), dialect)
    entries = read_entries(text)
    assert entries is not None
    root, listings = directory_tree.build(entries)
    assert write_text(directory_tree.walk(root, lambda hashes: listings), dialect) == text
    assert json.loads(text)["version"] == "1"


@given(trees, trees)
def test_the_difference_of_trees_is_that_of_their_files(
    before: dict[str, tuple[int, str]], after: dict[str, tuple[int, str]]
) -> None:
    sides = [{entry.path: entry for entry in without_clashes(files)} for files in (before, after)]
    (old, listings), (new, more) = (directory_tree.build(side.values()) for side in sides)
    found = directory_tree.changed(old, new, lambda hashes: listings | more)
    expected = {
        path: (sides[0].get(path), sides[1].get(path))
        for path in sides[0].keys() | sides[1].keys()
        if sides[0].get(path) != sides[1].get(path)
    }
    assert found == expected


def test_an_unchanged_directory_is_not_read() -> None:
    sides = [
        [Entry("same/a", "file", 420, HELLO, 5), Entry("other/b", "file", 420, sha(text), 1)]
        for text in ("1", "2")
    ]
    (old, listings), (new, more) = map(directory_tree.build, sides)
    read: set[str] = set()

    def load(hashes: Any) -> dict[str, bytes]:
        read.update(hashes)
        return listings | more

    assert set(directory_tree.changed(old, new, load)) == {"other/b"}
    assert len(read) == 4


folders = st.dictionaries(st.sampled_from(["a", "b", "a/a", "a/b", "a/b/c", "d"]), st.just(493), max_size=3)


def _chosen(listings: dict[str, bytes], hashes: Collection[str]) -> dict[str, bytes]:
    return {hash: listings[hash] for hash in hashes}


@given(trees, trees, folders, folders)
def test_an_edited_tree_is_that_of_its_entries(
    before: dict[str, tuple[int, str]],
    after: dict[str, tuple[int, str]],
    named_before: dict[str, int],
    named_after: dict[str, int],
) -> None:
    sides = []
    for files, named in ((before, named_before), (after, named_after)):
        entries = {entry.path: entry for entry in without_clashes(files)}
        for path, mode in named.items():
            above = path.split("/")
            if not any("/".join(above[:count]) in entries for count in range(1, len(above) + 1)):
                entries[path] = Entry(path, "dir", mode)
        sides.append(entries)
    (old, listings), (new, _) = (directory_tree.build(side.values()) for side in sides)
    changes = {path: sides[1].get(path) for path in sides[0].keys() | sides[1].keys()}
    for changed in (changes, {path: to for path, to in changes.items() if sides[0].get(path) != to}):
        root, made = edited(old, changed, lambda hashes: listings)
        assert root == new
        assert set(directory_tree.walk(root, partial(_chosen, listings | made))) == set(sides[1].values())


@pytest.mark.parametrize(
    "changes",
    [
        {"a": Entry("a", "file", 420, HELLO, 5)},
        {"b/c": Entry("b/c", "file", 420, HELLO, 5)},
        {"b": Entry("b", "dir", 493), "b/c": None, "a": Entry("a", "symlink", target="b")},
    ],
)
def test_an_edit_makes_no_file_a_directory(changes: dict[str, Entry | None]) -> None:
    root, listings = directory_tree.build(
        [Entry("a/x", "file", 420, HELLO, 5), Entry("b", "file", 420, HELLO, 5)]
    )
    with pytest.raises(ManifestInvalid):
        edited(root, changes, lambda hashes: listings)


def test_an_edit_reads_only_what_is_above_it() -> None:
    root, listings = directory_tree.build(
        [Entry(path, "file", 420, HELLO, 5) for path in ("a/b/c", "a/d/e", "f/g", "h")]
    )
    read: list[str] = []

    def load(hashes: Any) -> dict[str, bytes]:
        read.extend(hashes)
        return listings

    _, made = edited(root, {"a/b/c": None, "new/x": Entry("new/x", "file", 420, HELLO, 5)}, load)
    assert (len(read), len(made)) == (3, 3)
