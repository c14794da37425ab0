"""Workplaces in memory: reading, searching and changing a stored tree, and storing what changed."""

from collections.abc import Iterator

import pytest
from sqlalchemy.orm import Session as OrmSession

from models.core.errors import DomainError, Invalid, NotFound
from models.projects.snapshots.manifest_store import manifest_entries, manifest_row, put_entries
from models.projects.snapshots.manifest_text import Entry
from models.runners import (
    FileChange,
    LevelUnavailable,
    Limits,
    NoProcesses,
    Workplace,
    levels,
    open_workplace,
    store_changes,
)
from tests.factories import Person
from tests.projects.project_rows import manifest_of

FILES = {
    "README.md": "# Columns\nA stoa is open.\n",
    "src/columns.py": "def columns():\n    return 12\n",
    "src/deep/er/one.txt": "Straße\r\nCOLUMNS\n",
    "src/picture.bin": "a\0columns",
    "node_modules/left.js": "columns",
}


@pytest.fixture
def root(session: OrmSession, alice: Person) -> str:
    return manifest_of(alice.account.id, FILES)


@pytest.fixture
def place(root: str, alice: Person) -> Iterator[Workplace]:
    opened = open_workplace("virtual", alice.account.id, root)
    yield opened
    opened.close()


def test_folders_are_listed_with_what_was_written(place: Workplace) -> None:
    assert place.list() == ["README.md", "node_modules/", "src/"]
    place.write("src/new/two.txt", b"2")
    place.delete("src/columns.py")
    assert place.list("src") == ["deep/", "new/", "picture.bin"]
    assert place.list("./src/new/") == ["two.txt"]
    assert place.list("src", limit=1) == ["deep/"]


def test_a_deleted_folder_is_gone_until_something_is_written_there(place: Workplace) -> None:
    place.delete("src")
    assert place.list() == ["README.md", "node_modules/"]
    with pytest.raises(NotFound):
        place.read("src/columns.py")
    place.write("src/columns.py", b"again")
    assert place.list("src") == ["columns.py"]
    assert {path: change.deleted for path, change in place.changes().items()} == {
        "src/columns.py": False,
        "src/deep/er/one.txt": True,
        "src/picture.bin": True,
    }


def test_a_folder_can_become_a_file(place: Workplace, root: str, alice: Person, session: OrmSession) -> None:
    place.delete("src")
    place.write("src", b"now a file")
    assert place.list() == ["README.md", "node_modules/", "src"]
    assert paths_of(alice, store_changes(alice.account.id, root, place.changes())) == {
        "README.md",
        "node_modules/left.js",
        "src",
    }


def test_lines_are_found_whatever_their_case_but_not_in_binary_files_or_those_of_tools(
    place: Workplace,
) -> None:
    place.write("a.txt", b"x\nmy columns\n")
    place.delete("README.md")
    found = place.search("columns")
    assert [tuple(each) for each in found] == [
        ("a.txt", 2, "my columns"),
        ("src/columns.py", 1, "def columns():"),
        ("src/deep/er/one.txt", 2, "COLUMNS"),
    ]
    assert not found.cut
    assert [each.text for each in place.search("STRASSE", folder="src/deep")] == ["Straße"]
    assert place.search("columns", limit=2).cut
    assert place.search("nowhere to be found") == []


def test_what_is_the_same_as_before_is_no_change(place: Workplace) -> None:
    place.write("README.md", FILES["README.md"].encode())
    place.write("gone.txt", b"1")
    place.delete("gone.txt")
    place.write(".venv/lib/x.py", b"made by a tool")
    assert place.changes() == {}


def test_a_tree_of_a_tool_that_was_stored_changes_like_others(place: Workplace) -> None:
    place.write("node_modules/left.js", b"changed")
    assert list(place.changes()) == ["node_modules/left.js"]


def test_executable_files_stay_so(session: OrmSession, alice: Person) -> None:
    root = store_changes(alice.account.id, None, {"run.sh": FileChange(b"true\n", executable=True)})
    place = open_workplace("virtual", alice.account.id, root)
    place.write("run.sh", b"false\n")
    place.write("other.sh", b"true\n", executable=True)
    stored = store_changes(alice.account.id, root, place.changes())
    assert {each.path: each.mode for each in entries(alice, stored)} == {"run.sh": 0o755, "other.sh": 0o755}
    place.write("run.sh", b"true\n", executable=False)
    assert not place.changes()["run.sh"].executable


def test_links_are_not_followed(session: OrmSession, alice: Person) -> None:
    root = put_entries(alice.account.id, [Entry("here", "symlink", target="there")])
    place = open_workplace("virtual", alice.account.id, root)
    for tried in (
        lambda: place.read("here"),
        lambda: place.write("here", b""),
        lambda: place.write("here/x", b""),
        lambda: place.list("here"),
    ):
        with pytest.raises(Invalid, match="link to there"):
            tried()
    place.delete("here")
    assert place.changes()["here"].deleted


@pytest.mark.parametrize(
    "path",
    ["", "/etc/passwd", "../x", "a/../../x", "a//b", "C:/x", "a\0b", "\udc80", "x" * 5_000, "a/" * 300],
)
def test_paths_that_leave_the_tree_are_refused(place: Workplace, path: str) -> None:
    for tried in (lambda: place.read(path), lambda: place.write(path, b"x"), lambda: place.delete(path)):
        with pytest.raises(Invalid):
            tried()


@pytest.mark.parametrize(
    ("path", "error"),
    [("nothing", NotFound), ("src", Invalid), ("README.md/x", NotFound), ("src/no", NotFound)],
)
def test_what_cannot_be_read_says_why(place: Workplace, path: str, error: type[DomainError]) -> None:
    with pytest.raises(error):
        place.read(path)


def test_a_file_larger_than_asked_for_is_not_read(place: Workplace) -> None:
    with pytest.raises(Invalid, match="more than the 10"):
        place.read("README.md", max_bytes=10)


@pytest.mark.parametrize("path", ["src", "README.md/below"])
def test_a_file_cannot_take_the_place_of_a_folder_or_lie_in_a_file(place: Workplace, path: str) -> None:
    with pytest.raises(Invalid):
        place.write(path, b"x")


def test_what_is_written_is_limited(alice: Person, session: OrmSession) -> None:
    place = open_workplace("virtual", alice.account.id, None, limits=Limits(disk_bytes=100))
    place.write("a", b"x" * 60)
    place.write("a", b"y" * 100)
    with pytest.raises(Invalid, match="have more than") as refused:
        place.write("b", b"z")
    assert refused.value.code == "limit_reached"
    assert list(place.changes()) == ["a"]


def test_nothing_is_executed(place: Workplace) -> None:
    with pytest.raises(NoProcesses):
        place.run("true", seconds=1)
    place.stop()


def test_another_accounts_tree_is_not_found(root: str, mallory: Person) -> None:
    with pytest.raises(NotFound):
        open_workplace("virtual", mallory.account.id, root)
    with pytest.raises(NotFound):
        store_changes(mallory.account.id, root, {"x": FileChange(b"x")})


def test_changes_make_a_tree_and_no_changes_the_same(
    place: Workplace, root: str, alice: Person, session: OrmSession
) -> None:
    assert store_changes(alice.account.id, root, {}) == root
    place.write("new.txt", b"new")
    place.delete("src/deep")
    stored = store_changes(alice.account.id, root, place.changes())
    assert paths_of(alice, stored) == {*FILES, "new.txt"} - {"src/deep/er/one.txt"}
    linked = store_changes(alice.account.id, stored, {"link": FileChange(target="new.txt")})
    assert {each.target for each in entries(alice, linked) if each.kind == "symlink"} == {"new.txt"}
    again = open_workplace("virtual", alice.account.id, stored)
    assert again.read("new.txt") == b"new"


def test_a_level_that_does_not_work_here_is_refused_with_its_reason(
    session: OrmSession, alice: Person
) -> None:
    state = levels(alice.account.id)
    assert state["virtual"].available
    assert not state["machine"].available
    with pytest.raises(LevelUnavailable) as refused:
        open_workplace("machine", alice.account.id, None)
    assert refused.value.message == state["machine"].sentence


def entries(person: Person, manifest_hash: str) -> list[Entry]:
    row = manifest_row(person.account.id, manifest_hash)
    assert row is not None
    return manifest_entries(row)


def paths_of(person: Person, manifest_hash: str) -> set[str]:
    return {each.path for each in entries(person, manifest_hash)}
