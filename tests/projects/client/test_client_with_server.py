"""The client against the application: projects from folders and folders from projects, snapshots, undo, and lost connections."""

import json
import os
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.factories import Person
from tests.projects.client.client_shell import Shell, Wire, module, sign_in_as
from tests.projects.project_calls import ProjectsApi

pytestmark = pytest.mark.usefixtures("proved")


def other_copy(shell: Shell, project: str, name: str = "copy", *more: str) -> Shell:
    """Another working copy of the project."""
    shell("clone", project, str(shell.folder.parent / name), *more)
    return Shell(shell.folder.parent / name, shell.capsys)


def test_a_clone_has_the_files_of_the_folder(shell: Shell, wire: Wire) -> None:
    shell.put("a.txt", "hello")
    shell.put("src/é & <b>.txt", "1\n")
    shell.put("empty", "")
    shell.put("run.sh", "#!/bin/sh\n").chmod(0o755)
    (shell.folder / "nothing").mkdir()
    (shell.folder / "link").symlink_to("src")
    shell.put("node_modules/x", "no")
    made = shell("init", "--name", "Shop")
    assert made["sent"]
    copy = other_copy(shell, "Shop")
    expected = shell.files()
    del expected["node_modules/x"]
    assert copy.files() == expected
    assert os.access(copy.folder / "run.sh", os.X_OK)
    assert not os.access(copy.folder / "a.txt", os.X_OK)
    assert (copy("status")["changes"], shell("status")["changes"]) == ({}, {})
    assert not list((copy.folder / ".stoa" / "objects").iterdir())


def test_a_snapshot_is_verified_and_says_who_made_it(shell: Shell, mine: ProjectsApi, alice: Person) -> None:
    shell.put("a", "1")
    made = shell("init", "-m", "Begin")
    shell.put("a", "2")
    new = shell("snapshot", "-m", "Change", "--agent", "codex")
    detail = mine("get", f"/snapshots/{new['snapshot_id']}")[1]["snapshot"]
    assert alice.user is not None
    assert (detail["verified"], detail["message"], detail["agent"]) == (True, "Change", "codex")
    assert (detail["parent_snapshot_ids"], detail["author_email"]) == (
        [made["snapshot_id"]],
        alice.user.email,
    )
    workspace = mine("get", f"/workspaces/{made['workspace_id']}")[1]["workspace"]
    assert workspace["current_snapshot_id"] == new["snapshot_id"]
    again = shell("snapshot")
    assert (again["created"], again["snapshot_id"]) == (False, new["snapshot_id"])
    listed = shell("log")
    assert [each["id"] for each in listed["snapshots"]] == [new["snapshot_id"], made["snapshot_id"]]
    assert f"Change  {new['snapshot_id']}" in shell.text("log")
    assert [each["kind"] for each in shell("log", "--operations")["operations"]] == ["snapshot", "snapshot"]


def test_changes_of_every_kind_arrive_as_changes(shell: Shell, wire: Wire) -> None:
    for name in ("a", "b", "src/c", "src/d", "run.sh", "e/f", "e/g", "h", "i", "j", "k", "l"):
        shell.put(name, name)
    (shell.folder / "kept").mkdir()
    shell("init", "--name", "Shop")
    shell.put("a", "new")
    shell.put("new/deep/file é", "new")
    (shell.folder / "run.sh").chmod(0o755)
    (shell.folder / "b").unlink()
    (shell.folder / "link").symlink_to("src")
    (shell.folder / "kept").rmdir()
    wire.calls.clear()
    shell("snapshot")
    assert not [path for method, path in wire.calls if method == "PUT"]
    assert other_copy(shell, "Shop").files() == shell.files()


def test_the_whole_list_is_sent_where_changes_are_refused(shell: Shell, wire: Wire) -> None:
    for number in range(9):
        shell.put(f"f{number}", str(number))
    shell("init", "--name", "Shop")
    shell.put("f3", "new")
    made = shell("snapshot", "--offline")
    record = json.loads((shell.folder / f".stoa/snapshots/{made['snapshot_id']}.json").read_text())
    older = f"/v1/blobs/manifests/{record['manifest_hash']}/changes"
    wire.scripted["POST", older] = [(404, {"error": {"code": "NOT_FOUND", "message": "None."}})]
    assert shell("snapshot")["sent"]
    assert [path for method, path in wire.calls if method == "PUT"]
    assert other_copy(shell, "Shop").files() == shell.files()


def test_only_what_is_new_is_sent(shell: Shell, wire: Wire) -> None:
    for number in range(20):
        shell.put(f"f{number}", str(number))
    shell("init")
    shell.put("f3", "new")
    wire.calls.clear()
    shell("snapshot")
    assert [path.partition("?")[0].rsplit("/", 1)[1] for _, path in wire.calls if "blobs" in path][:2] == [
        "missing",
        "batch",
    ]
    assert [path for _, path in wire.calls if path.partition("?")[0].endswith("/changes")]
    assert not [path for method, path in wire.calls if method == "PUT"]
    wire.calls.clear()
    shell("snapshot")
    assert len(wire.calls) == 1


def test_snapshots_without_a_server_are_sent_later_parents_first(
    shell: Shell, wire: Wire, mine: ProjectsApi
) -> None:
    shell.put("a", "0")
    project = shell("init")["project_id"]
    ids = []
    for number in range(3):
        shell.put("a", str(number + 1))
        ids.append(shell("snapshot", "--offline", "-m", str(number))["snapshot_id"])
    wire.fails_at = 0
    assert shell("status", "--offline")["unsent"] == ids
    shell.put("b", "4")
    failed = shell("snapshot", code=5)
    assert (failed["created"], failed["sent"]) == (True, False)
    wire.fails_at = None
    assert shell("snapshot")["sent"]
    stored = [each["id"] for each in mine("get", f"/projects/{project}/snapshots")[1]["snapshots"]]
    assert stored[:4] == [failed["snapshot_id"], *reversed(ids)]
    assert shell("status")["unsent"] == []
    assert other_copy(shell, project).files() == shell.files()


@pytest.mark.parametrize("answers_lost", [False, True])
def test_a_push_goes_on_wherever_it_stopped(
    shell: Shell, wire: Wire, mine: ProjectsApi, answers_lost: bool
) -> None:
    shell.put("a", "0")
    made = shell("init")
    for number in range(2):
        shell.put(f"n{number}", str(number))
        last = shell("snapshot", "--offline")["snapshot_id"]
    wire.answers_lost = answers_lost
    for fails_at in range(1, 40):
        wire.calls.clear()
        wire.fails_at = fails_at
        found = module("terminal").run(["snapshot", "-C", str(shell.folder), "--quiet"])
        if found == 0:
            break
        assert found == 5
    assert fails_at > 4
    wire.fails_at = None
    done = shell("snapshot")
    assert (done["snapshot_id"], done["created"], done["sent"]) == (last, False, True)
    assert not done["server_moved"]
    workspace = mine("get", f"/workspaces/{made['workspace_id']}")[1]["workspace"]
    assert workspace["current_snapshot_id"] == last
    assert len(mine("get", f"/workspaces/{made['workspace_id']}/operations")[1]["operations"]) == 2


def test_init_goes_on_after_an_interruption(shell: Shell, wire: Wire, mine: ProjectsApi) -> None:
    shell.put("a", "0")
    for fails_at in range(2, 20):
        wire.calls.clear()
        wire.fails_at = fails_at
        found = module("terminal").run(["init", "-C", str(shell.folder)])
        if found != 5:
            break
    wire.fails_at = None
    if found:
        shell("sync")
    assert len(mine("get", "/projects")[1]["projects"]) == 1
    assert shell("status")["changes"] == {}


def test_undo_brings_files_back_and_can_be_undone(shell: Shell) -> None:
    shell.put("a", "1")
    shell.put("gone", "1")
    shell.put(".stoaignore", "secret\n")
    shell("init")
    (shell.folder / "gone").unlink()
    shell.put("a", "2")
    shell.put("new/file", "2")
    shell("snapshot")
    shell.put("secret", "mine")
    shell.put("new/secret", "mine")
    undone = shell("undo")
    assert undone["changes"] == {"a": "modified", "gone": "added", "new/file": "deleted"}
    rest = {".stoaignore": "secret\n", "secret": "mine", "new/secret": "mine"}
    assert shell.files() == {"a": "1", "gone": "1", **rest}
    shell("undo")
    assert shell.files() == {"a": "2", "new/file": "2", **rest}
    assert shell("status")["changes"] == {}


def test_undo_of_the_first_snapshot_leaves_the_files(shell: Shell) -> None:
    shell.put("a", "1")
    shell("init")
    shell("undo")
    assert shell.files() == {"a": "1"}
    assert shell("status")["changes"] == {"a": "added"}


def test_undo_saves_what_is_in_no_snapshot(shell: Shell) -> None:
    shell.put("a", "1")
    shell("init")
    shell.put("a", "2")
    shell("snapshot")
    shell.put("b", "unsaved")
    assert [each["path"] for each in shell("undo", "--dry-run")["changes"]] == ["a"]
    shell("undo")
    assert shell.files() == {"a": "1", "b": "unsaved"}


def test_undo_of_an_old_operation_asks_about_later_changes(shell: Shell) -> None:
    shell.put("a", "1")
    shell("init")
    for text in ("2", "3"):
        shell.put("a", text)
        shell("snapshot")
    old = shell("log", "--operations")["operations"][1]["id"]
    refused = shell("undo", old, code=1)
    assert (refused["error"]["code"], refused["error"]["details"]["conflicts"]) == ("UNDO_CONFLICT", ["a"])
    shell("undo", old, "--conflicts", "keep")
    assert shell.files() == {"a": "3"}
    shell("undo", old, "--decide", "a=undo")
    assert shell.files() == {"a": "1"}
    assert shell("undo", "--decide", "a=x", code=2)["error"]["code"] == "USAGE"


def same_workspace(shell: Shell) -> tuple[Shell, Shell]:
    """Two folders of one workspace."""
    shell.put("a", "1")
    shell.put("b", "1")
    made = shell("init")
    return shell, other_copy(shell, made["project_id"], "twin", "--workspace-id", made["workspace_id"])


def test_a_clone_of_a_wrong_workspace_makes_no_folder(shell: Shell) -> None:
    made = shell("init", "--name", "One")
    other = Shell(shell.folder.parent / "other", shell.capsys)
    other.put("a", "1")
    foreign = other("init", "--name", "Two")["workspace_id"]
    folder = shell.folder.parent / "copy"
    for id in (foreign, "unknown"):
        refused = shell("clone", made["project_id"], str(folder), "--workspace-id", id, code=1)
        assert refused["error"]["code"] == "NOT_FOUND"
        assert not folder.exists()


def test_two_folders_of_a_workspace_follow_each_other(shell: Shell) -> None:
    one, other = same_workspace(shell)
    one.put("a", "2")
    one("snapshot")
    assert other("status")["server_moved"]
    assert other("sync")["how"] == "fetched"
    assert other.files() == one.files()
    assert other("sync")["how"] == "nothing"


def test_changes_of_both_are_merged_and_conflicts_asked(shell: Shell) -> None:
    one, other = same_workspace(shell)
    one.put("a", "one")
    one("snapshot")
    other.put("b", "other")
    other.put("c", "other")
    late = other("snapshot", code=1)
    assert late["server_moved"]
    assert other.files()["a"] == "1"
    assert other("sync")["how"] == "merged"
    assert other.files() == {"a": "one", "b": "other", "c": "other"}
    assert one("sync")["how"] == "fetched"
    assert one.files() == other.files()
    one.put("a", "one again")
    one("snapshot")
    other.put("a", "other")
    asked = other("sync", code=1)
    assert (asked["error"]["code"], asked["error"]["details"]["conflicts"]) == ("MERGE_CONFLICT", ["a"])
    assert other.files()["a"] == "other"
    other("sync", "--prefer", "mine")
    assert other.files()["a"] == "other"
    one("sync")
    assert one.files() == other.files()


def test_a_fetch_overwrites_no_file_that_is_in_no_snapshot(shell: Shell) -> None:
    one, other = same_workspace(shell)
    other.put(".stoaignore", "local*\n")
    other("snapshot")
    one("sync")
    one.put("local.txt", "mine")  # ignored here, and in no snapshot
    (other.folder / ".stoaignore").write_text("")
    other.put("local.txt", "theirs")
    other("snapshot")
    done = one("sync")
    assert done["kept"] == ["local.txt"]
    assert one.files()["local.txt"] == "mine"
    assert one("status")["changes"] == {"local.txt": "modified"}


def test_a_fetch_goes_on_wherever_it_stopped(
    shell: Shell, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = same_workspace(shell)
    for number in range(4):
        one.put(f"n/{number}", str(number))
    (one.folder / "a").unlink()
    one("snapshot")
    writer = module("tree_writer").TreeWriter
    put, left = writer._put, [2]

    def stops(self: Any, *entries: Any) -> None:
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1
        put(self, *entries)

    monkeypatch.setattr(writer, "_put", stops)
    assert other("sync", code=130)["error"]["code"] == "CANCELLED"
    monkeypatch.setattr(writer, "_put", put)
    assert other("status")["interrupted"]
    other.put("b", "edited meanwhile")
    other("sync")
    assert other.files() == {**one.files(), "b": "edited meanwhile"}


def test_a_file_that_changes_while_it_is_read_is_read_again(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell.put("a", "1")
    work = module("project_work")
    read, times = work.read_file, [0]

    def changing(place: Path) -> bytes:
        times[0] += 1
        if times[0] == 1:
            place.write_text("2")
        return bytes(read(place))

    monkeypatch.setattr(work, "read_file", changing)
    made = shell("init")
    assert other_copy(shell, made["project_id"]).files() == {"a": "2"}


def test_a_file_that_is_too_large_is_named(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module("file_scan"), "MAX_FILE", 10)
    shell.put("big", "x" * 11)
    assert shell("init", code=1)["error"]["details"] == {"paths": ["big"]}
    shell.put(".stoaignore", "big")
    assert shell("init")["sent"]


def test_a_large_file_goes_in_parts_from_where_it_stopped(
    shell: Shell, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module("project_exchange"), "PART_BYTES", 10 << 20)
    text = "".join(f"line {number} {number * 7919 % 104729}\n" for number in range(1_500_000))
    assert len(text) > 26 << 20
    shell.put("big.txt", text)

    def sent() -> int:
        return sum(method == "PUT" and "/parts/" in path for method, path in wire.calls)

    made = shell("init", "--name", "Shop")
    assert (made["sent"], sent()) == (True, len(text) // (10 << 20) + 1)
    assert other_copy(shell, "Shop").files() == {"big.txt": text}
    # a connection that breaks after the first part
    shell.put("big.txt", text[::-1])
    wire.calls.clear()
    send, count = wire.send, 0

    def breaks(*arguments: Any) -> Any:
        nonlocal count
        count += "/parts/" in arguments[2] and arguments[1] == "PUT"
        if count > 1:
            raise ConnectionResetError("lost")
        return send(*arguments)

    monkeypatch.setattr(
        module("server_calls").Server, "send", lambda server, *arguments: breaks(server, *arguments)
    )
    shell("snapshot", code=5)
    assert sent() == 1
    monkeypatch.setattr(
        module("server_calls").Server, "send", lambda server, *arguments: send(server, *arguments)
    )
    assert shell("snapshot")["snapshot_id"]
    assert sent() == len(text) // (10 << 20) + 1
    assert other_copy(shell, "Shop", "third").files() == {"big.txt": text[::-1]}


def test_watch_takes_a_snapshot_when_files_rest(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    shell.put("a", "1")
    shell("init")
    texts = iter(["2", "3", None, None, None])

    def passes(seconds: float) -> None:
        if text := next(texts):
            shell.put("a", text)

    monkeypatch.setattr(module("folder_commands"), "time", SimpleNamespace(sleep=passes))
    done = shell("watch", "--rounds", "5")
    assert (done["changes"], done["sent"]) == (1, True)
    assert len(shell("log")["snapshots"]) == 2


def test_two_commands_do_not_work_in_a_folder_at_once(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module("working_copy"), "LOCK_WAIT", 0)
    shell.put("a", "1")
    shell("init")
    with module("working_copy").WorkingCopy(shell.folder).locked():
        assert shell("snapshot", code=1)["error"]["code"] == "LOCKED"
    shell("snapshot")


def test_variables_are_set_and_written_to_a_file_of_the_user_only(shell: Shell) -> None:
    shell("init", "--name", "Empty")
    shell("env", "set", "URL=http://x/?a=b", "--quiet")
    shell("env", "set", 'KEY=s3cr$t "x"', "--secret")
    listed = {each["key"]: each["value"] for each in shell("env", "list")["variables"]}
    assert listed["URL"] == "http://x/?a=b"
    assert "s3cr" not in listed["KEY"]
    shell("env", "pull", "--file", ".env")
    place = shell.folder / ".env"
    assert place.read_text() == 'KEY="s3cr\\$t \\"x\\""\nURL="http://x/?a=b"\n'
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    assert shell("env", "pull", "--file", ".env", code=1)["error"]["code"] == "EXISTS"
    shell("env", "set", "URL=http://here", "--here")
    here = {each["key"]: each["value"] for each in shell("env", "pull")["variables"]}
    assert here["URL"] == "http://here"
    shell("env", "unset", "URL", "--here")
    shell("env", "unset", "KEY")
    assert [each["key"] for each in shell("env", "list")["variables"]] == ["URL"]
    assert shell("env", "set", "1X=2", code=2)["error"]["code"] == "USAGE"


def test_a_stranger_and_an_anonymous_client_get_nothing(
    shell: Shell, mallory: Person, anonymous: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell.put("a", "1")
    made = shell("init")
    shell.put("a", "2")
    for person, code in ((mallory, 1), (anonymous, 3)):
        sign_in_as(person, monkeypatch)
        for wanted in (made["project_id"], made["snapshot_id"], "shop"):
            shell("clone", wanted, str(shell.folder.parent / "theirs"), code=code)
        for command in (["snapshot"], ["sync"], ["undo"], ["log"], ["env", "list"], ["drift"]):
            shell(*command, code=code)
    assert not (shell.folder.parent / "theirs").exists()


def test_a_folder_of_somebody_else_does_not_get_the_token(
    shell: Shell, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell.put("a", "1")
    shell("init")
    module("working_copy").WorkingCopy(shell.folder).configure(url="http://evil.test")
    wire.tokens.clear()
    assert shell("sync", code=3)["error"]["code"] == "UNAUTHORIZED"
    assert wire.tokens == set()
    shell("sync", "--url", "http://stoa.test")


def test_a_folder_that_is_not_empty_is_not_cloned_into(shell: Shell) -> None:
    shell.put("a", "1")
    made = shell("init")
    place = shell.folder.parent / "full"
    place.mkdir()
    (place / "x").write_text("mine")
    assert shell("clone", made["project_id"], str(place), code=1)["error"]["code"] == "EXISTS"
    assert [each.name for each in place.iterdir()] == ["x"]


def test_a_workspace_of_the_same_name_gets_a_number(shell: Shell, mine: ProjectsApi) -> None:
    shell.put("a", "1")
    project = shell("init")["project_id"]
    for name in ("one", "two"):
        other_copy(shell, project, name, "--workspace", "box")
    found = mine("get", f"/projects/{project}/workspaces")[1]["workspaces"]
    assert [each["name"] for each in found] == ["box-2", "box", "main"]


def test_a_project_of_an_organisation(
    shell: Shell, bob: Person, acme: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell.put("a", "1")
    project = shell("init", "--org", acme.slug)["project_id"]
    sign_in_as(bob, monkeypatch)
    copy = other_copy(shell, project)
    copy.put("a", "2")
    assert copy("snapshot")["sent"]
