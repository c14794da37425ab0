"""The client where folders, names, disks and servers are against it: it loses no file, says what to do next, and goes on later."""

import errno
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.projects.client.client_shell import Shell, Wire, module
from tests.projects.client.test_client_trees import entry, tree, written
from tests.projects.client.test_client_with_server import other_copy
from tests.projects.project_calls import ProjectsApi

pytestmark = pytest.mark.usefixtures("home")

ODD_NAMES = [
    "a\nb",
    "tab\there",
    "caf\u00e9",
    "cafe\u0301",
    "\u202egnp.exe_",
    "'\"`$(id)",
    "a\\b",
    " lead",
    "%2e%2e",
    "CON",
    "README",
    "readme",
]
STEERING = [".git./x", ".g\u200cit/x", "git~1/x", ".Stoa/x", "C:/x", "\\abs", "..\\up"]


def scanned(folder: Path, known: dict[str, Any] | None = None) -> Any:
    return module("file_scan").FolderScan(folder, folder.parent / "scan_cache", known or {}).read()


def test_odd_names_come_back_as_they_are(shell: Shell, proved: None) -> None:
    for name in ODD_NAMES:
        shell.put(f"d/{name}", name)
        shell.put(f"{name} folder/x", name)
    made = shell("init")
    copy = other_copy(shell, made["project_id"])
    assert copy.files() == shell.files()
    assert (copy("status")["changes"], shell("status")["changes"]) == ({}, {})
    (copy.folder / "d" / "a\nb").unlink()
    assert "a b" in copy.text("status")


@pytest.mark.parametrize("name", STEERING)
def test_names_that_steer_other_programs_are_left_out(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "x"
    (folder / name).parent.mkdir(parents=True)
    (folder / name).write_text("x")
    (folder / "a").write_text("x")
    found = scanned(folder)
    assert list(found.tree) == ["a"]
    # what this client takes, it and the server read again
    text = module("tree_text")
    assert text.read_tree(text.tree_text(found.tree.values())) == found.tree


def test_a_name_that_is_no_text_is_named_unless_it_is_ignored(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    folder.mkdir()
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff.log")).write_text("x")
    with pytest.raises(module("failures").Failure, match="UTF-8"):
        scanned(folder)
    (folder / ".stoaignore").write_text("*.log")
    assert list(scanned(folder).tree) == [".stoaignore"]


@pytest.mark.parametrize("gone", ["file", "folder", "link", "root"])
def test_what_goes_while_it_is_read_is_no_error(
    tmp_path: Path, gone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "x"
    (folder / "folder").mkdir(parents=True)
    (folder / "file").write_text("1")
    (folder / "folder" / "in").write_text("1")
    (folder / "link").symlink_to("file")
    place = folder if gone == "root" else folder / gone
    scan = module("file_scan")
    real = SimpleNamespace(
        **{name: getattr(os, name) for name in ("scandir", "readlink")}, read=Path.read_bytes
    )

    def away(path: Any) -> None:
        if Path(path) == place:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))

    monkeypatch.setattr(scan.os, "scandir", lambda path: away(path) or real.scandir(path))
    monkeypatch.setattr(scan.os, "readlink", lambda path: away(path) or real.readlink(path))
    monkeypatch.setattr(Path, "read_bytes", lambda path: away(path) or real.read(path))
    if gone == "root":
        with pytest.raises(module("failures").Failure, match="cannot be read"):
            scanned(folder)
        return
    left = {"file", "folder/in", "link"} - {"folder/in" if gone == "folder" else gone}
    assert set(scanned(folder).tree) == left


def test_what_cannot_be_read_is_named(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    shell.put("a", "1")
    shell("init")
    shell.put("a", "2")
    shell.put("b", "2")
    read = Path.read_bytes

    def refused(path: Path) -> bytes:
        if path.name == "b":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refused)
    error = shell("snapshot", code=1)["error"]
    assert (error["code"], error["details"]) == ("UNREADABLE", {"path": "b"})
    assert ".stoaignore" in error["message"]
    shell.put(".stoaignore", "b")
    assert shell("snapshot")["sent"]


def test_names_that_are_one_on_this_computer_are_not_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "x"
    folder.mkdir()
    (folder / "README").write_text("hello")
    (folder / "e\u0301").write_text("hello")
    known = tree(entry("README"), entry("readme"), entry("\u00e9"), entry("e\u0301"), entry("other"))
    lexists = os.path.lexists
    monkeypatch.setattr(
        os.path, "lexists", lambda path: Path(path).name in ("readme", "\u00e9") or lexists(path)
    )
    assert set(scanned(folder, known).tree) == {"README", "readme", "\u00e9", "e\u0301"}
    # a new spelling of one name is a new name
    assert set(scanned(folder, tree(entry("readme"))).tree) == {"README", "e\u0301"}


@pytest.mark.parametrize("change", ["edited", "made", "removed"])
def test_a_change_at_the_last_moment_is_kept(
    tmp_path: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {} if change == "made" else tree(entry("a", "old"))
    after = {} if change == "removed" else tree(entry("a", "new"))
    if before:
        (tmp_path / "a").write_text("old")
    writer = module("tree_writer")
    look = writer.TreeWriter._found

    def too_early(self: Any, place: Path) -> Any:
        found = look(self, place)
        place.write_text("mine, just now")
        return found

    monkeypatch.setattr(writer.TreeWriter, "_found", too_early)
    assert written(tmp_path, before, after).kept == ["a"]
    assert (tmp_path / "a").read_text() == "mine, just now"


def test_a_file_system_without_hard_links_is_written_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(module("tree_writer").os, "link", refused)
    assert written(tmp_path, {}, tree(entry("a", "new"))).kept == []
    assert (tmp_path / "a").read_text() == "new"


@pytest.mark.parametrize("command", ["snapshot", "sync"])
def test_a_full_disk_costs_nothing(
    shell: Shell, command: str, proved: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell.put("a", "1")
    made = shell("init")
    copy = other_copy(shell, made["project_id"], "twin", "--workspace-id", made["workspace_id"])
    if command == "sync":
        for name in "abcd":
            shell.put(name, "2")
        shell("snapshot")
    else:
        copy.put("a", "2")
        copy.put("b", "2")
    mine = copy.files()
    opened = os.open
    for left in range(12):
        room = [left]

        def full(path: Any, flags: int, *more: Any, room: list[int] = room, **named: Any) -> int:
            if flags & os.O_CREAT:
                room[0] -= 1
                if room[0] < 0:
                    raise OSError(errno.ENOSPC, "No space left on device", str(path))
            return opened(path, flags, *more, **named)

        with monkeypatch.context() as patched:
            patched.setattr(os, "open", full)
            found = module("terminal").run([command, "-C", str(copy.folder), "--quiet"])
        if found == 0:
            break
        assert found == 1
        if command == "snapshot":
            assert copy.files() == mine
        assert not list((copy.folder / ".stoa").glob("*.new"))
    assert found == 0
    assert copy.files() == (shell.files() if command == "sync" else mine)
    assert copy("status")["changes"] == {}


@pytest.mark.parametrize("token", ["cb-pat-wrong", "x" * 5000, "wr\nong", ""])
def test_a_wrong_token_is_told(shell: Shell, token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shell.put("a", "1")
    shell("init")
    shell.put("a", "2")
    monkeypatch.setenv("STOA_TOKEN", token)
    error = shell("snapshot", code=3)["error"]
    assert error["code"] == "UNAUTHORIZED"
    assert shell.files() == {"a": "2"}


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_in_trouble_is_told_and_watch_goes_on(
    shell: Shell, wire: Wire, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell.put("a", "1")
    made = shell("init")
    shell.put("a", "2")
    error = (status, {"error": {"code": "TROUBLE", "message": "Not now."}})
    path = f"/v1/projects/{made['project_id']}/snapshots"
    wire.scripted["POST", path] = [error]
    assert "Not now." in shell.text("snapshot", code=1)
    rounds = [0]

    def passes(seconds: float) -> None:
        rounds[0] += 1
        if rounds[0] == 2:
            wire.scripted.clear()

    monkeypatch.setattr(module("folder_commands"), "time", SimpleNamespace(sleep=passes))
    assert "Not now." in shell.text("watch", "--rounds", "4")
    assert shell("status")["unsent"] == []


def test_a_command_that_waited_for_another_sees_what_it_did(shell: Shell) -> None:
    shell.put("a", "1")
    shell("init")
    copies = module("working_copy").WorkingCopy
    waiting = copies(shell.folder)
    shell.put("a", "2")
    new = shell("snapshot")["snapshot_id"]
    with waiting.locked():
        assert waiting.state["head"] == new


def test_overlaps_are_told_while_both_work(shell: Shell, mine: ProjectsApi) -> None:
    for name in ("a", "b", "c, d"):
        shell.put(name, "1")
    made = shell("init")
    one = other_copy(shell, made["project_id"], "one", "--workspace", "one")
    two = other_copy(shell, made["project_id"], "two", "--workspace", "two")
    one.put("a", "one")
    one.put("c, d", "one")
    assert one("snapshot")["overlaps"] == []
    two.put("c, d", "two")
    # not even a snapshot yet
    assert two("status")["overlaps"] == [{"path": "c, d", "workspaces": ["one"]}]
    two.put("a", "two")
    assert two("snapshot")["overlaps"] == [{"path": each, "workspaces": ["one"]} for each in ("a", "c, d")]
    shell.put("a", "main")
    shell("snapshot")
    assert "a  (main, two)" in one.text("status")
    assert one("status", "--offline")["overlaps"] == []
