"""What the client makes without a server: ids, manifests, ignore rules, scans, and writing trees without losing a file."""

import ast
import os
import stat
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from models.projects.snapshots.manifest_text import Entry, read_entries, write_text
from tests.projects.client.client_shell import module
from tests.projects.project_calls import sha

pytestmark = pytest.mark.usefixtures("home")
HELLO = sha("hello")


def entry(path: str, text: str = "hello", mode: int = 420) -> Any:
    return module("tree_text").TreeEntry(path, "file", mode, sha(text), len(text))


def tree(*entries: Any) -> dict[str, Any]:
    return {each.path: each for each in entries}


@pytest.mark.parametrize(
    ("manifest", "parents", "author", "id"),
    [
        (
            "abc123",
            ["parent1"],
            ("John", "john@example.com"),
            "68bfe6f0e3c1c9c06f71201848888b395f3f8e3d924dea99aa7cdb9bdde60d46",
        ),
        (
            "abc",
            ["b", "a", "c"],
            ("J", "j@e.com"),
            "01fc7488894b4aa319af91a20db39643aae320a2ab6a695788b40dd50c6bd1f8",
        ),
        ("abc123", [], ("", ""), "dd37c31e68635844e15ce9c0025ffa31d4d6271f8f72d7609daac1dca2a7ebd4"),
    ],
)
def test_ids_are_those_of_the_contract(
    manifest: str, parents: list[str], author: tuple[str, str], id: str
) -> None:
    computed = module("project_exchange").computed_id
    assert computed(manifest, parents, *author, "2024-01-01T00:00:00Z") == id


def test_manifests_are_those_of_the_contract() -> None:
    text, kind = module("tree_text").tree_text, module("tree_text").TreeEntry
    assert sha(text([])) == "ae430cc749b673d2f62795880ca53904a19351c271068b31fece8428431b918f"
    odd = [
        entry("a&b.txt"),
        kind("dir", "dir", 493),
        entry("dir/é<x>.txt", ""),
        kind("ln", "symlink", target="dir"),
    ]
    assert sha(text(odd)) == "c7de9b22f9f07f53d1402436ad3b92b7d07556281f52218a68231e1192794aae"


@pytest.mark.parametrize("path", ["a", "é/\U0001f600", "z\u2028<&>", 'q"\\x', "\x01\x08\x7f", "ﬀ", "a/b.c d"])
def test_client_and_server_write_the_same_text(path: str) -> None:
    wanted = write_text([Entry(path, "file", 420, HELLO, 5), Entry("zz", "dir", 493)], "typed")
    found = module("tree_text").tree_text([module("tree_text").TreeEntry("zz", "dir", 493), entry(path)])
    assert found == wanted
    assert read_entries(found) is not None


HARMFUL = [
    *(
        "../x",
        "/x",
        "a//b",
        "a/./b",
        "",
        "x\0",
        "a/../../b",
        ".git/hooks/x",
        ".GIT/x",
        "a/.git",
        ".stoa/config.json",
    ),
    *(".git /x", ".git./x", ".g\u200cit/x", "git~1/x", ".hg/hgrc", "a/.Stoa/x"),
]


@pytest.mark.parametrize("path", HARMFUL)
def test_a_path_that_could_do_harm_is_refused(path: str) -> None:
    with pytest.raises(module("failures").Failure, match="refused"):
        module("tree_text").read_tree(write_untyped(path))


def write_untyped(path: str) -> bytes:
    import json

    return json.dumps(
        {"version": "1", "files": [{"path": path, "hash": HELLO, "size": 5, "mode": 420}]}
    ).encode()


@pytest.mark.parametrize("target", ["/etc", "../x", "a/../../x", "", "C:\\x", "..\\x", ".git/hooks"])
def test_a_link_that_leaves_the_project_is_refused(target: str) -> None:
    import json

    text = json.dumps({"files": [{"type": "symlink", "path": "l", "target": target}]}).encode()
    with pytest.raises(module("failures").Failure, match="refused"):
        module("tree_text").read_tree(text)


@pytest.mark.parametrize(
    "text", [b"", b"{}", b"[]", b'{"files": 1}', b'{"files": [1]}', b'{"files": [{}]}', b"\xff"]
)
def test_what_is_no_manifest_is_refused(text: bytes) -> None:
    with pytest.raises(module("failures").Failure, match="refused"):
        module("tree_text").read_tree(text)


def test_a_file_below_a_file_or_twice_is_refused() -> None:
    text, failure = module("tree_text"), module("failures").Failure
    for entries in ([entry("a"), entry("a/b")], [entry("a"), entry("a")]):
        with pytest.raises(failure, match="refused"):
            text.read_tree(text.tree_text(entries))


@pytest.mark.parametrize(
    ("lines", "ignored", "kept"),
    [
        (
            [],
            ["a/node_modules/x", "__pycache__/y", "b.pyc", "d/.DS_Store", ".git/config", ".stoa/x"],
            ["a", "node_modules"],
        ),
        (["build/"], ["build/x", "a/build/y"], ["a/build"]),
        (["*.log"], ["x.log", "a/y.log"], ["x.log.txt"]),
        (["*tmp*"], ["atmpb", "d/tmp"], ["tm"]),
        (["tmp*"], ["tmp1", "a/tmpfile"], ["atmp"]),
        (["docs/out"], ["docs/out/x", "docs/out"], ["a/docs/out"]),
        (["/top"], ["top"], ["a/top"]),
        (["*.log", "!keep.log"], ["a.log"], ["keep.log", "d/keep.log"]),
        (["out/", "!out/keep"], ["out/x"], ["out/keep"]),
        (["!*.pyc"], [], ["b.pyc"]),
        (["!.git/", "!.git"], [".git/config"], []),
        (["# x", "", "  y  "], ["y"], ["# x", "x"]),
        # the defaults of the contract, one by one, at the root and below; and what only looks like them
        (
            [],
            [
                f"{at}{each}/x"
                for each in (".fst", ".git", ".svn", ".hg", "node_modules")
                for at in ("", "d/")
            ],
            [],
        ),
        ([], ["__pycache__/x", "d/__pycache__/x", ".fst", "d/.fst"], ["__pycache__", "d/node_modules"]),
        ([], [".DS_Store", "Thumbs.db", "d/Thumbs.db"], ["DS_Store", "Thumbs.db.txt", "thumbs.db"]),
        ([], ["a.pyc", "a.pyo", "a.class", "d/a.o", "a.obj"], ["pyc", "a.py", "class", "a.o.c", "objects"]),
        ([], ["a.exe", "a.dll", "a.so", "d/a.dylib"], ["exe", "a.dll.md", "also", "so"]),
        # the last that matches wins, in both directions, and over the defaults
        (["!*.pyc", "*.pyc"], ["b.pyc"], []),
        (["*.md", "!README.md", "README.*"], ["README.md", "a.md"], []),
        (["!node_modules/"], [], ["node_modules/x"]),
        # a slash at the end: folders only, wherever they are
        (["out/"], ["out/a", "d/out/a/b"], ["out", "d/out", "outer/a"]),
        # `*x` ends with, `*x*` contains, `x*` begins with
        (["*.min.js"], ["a.min.js", "d/b.min.js"], ["a.min.js.map", "min.js"]),
        (["*cache*"], ["cache", "mycache2/x", "d/a.cache"], ["cach"]),
        (["log*"], ["log", "logs/x", "d/log.txt"], ["blog", "d/blog"]),
        # other characters stand for themselves
        (["[id].ts", "a?b"], ["[id].ts", "a?b"], ["i.ts", "axb"]),
        (["**/gen", "**/a/b"], ["gen", "d/gen/x", "a/b", "d/a/b"], ["again", "b"]),
        (["tmp/**"], ["tmp/x", "tmp/d/y"], ["d/tmp/x"]),
        (["**", "!a"], ["b", ".stoaignore"], ["a"]),
        (["/", "!", "**/", " "], [], ["a"]),
    ],
)
def test_ignore_rules(tmp_path: Path, lines: list[str], ignored: list[str], kept: list[str]) -> None:
    for number, path in enumerate([*ignored, *kept]):
        place = tmp_path / str(number) / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("x")
        (tmp_path / str(number) / ".stoaignore").write_text("\n".join(lines))
        scanned = module("file_scan").FolderScan(tmp_path / str(number), tmp_path / "cache", {}).read()
        assert (path in scanned.tree) == (path in kept), path
        (tmp_path / "cache").unlink(missing_ok=True)


def test_files_are_hashed_again_only_if_they_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = module("file_scan")
    folder = tmp_path / "x"
    folder.mkdir()
    (folder / "a").write_text("1")
    (folder / "b").write_text("2")

    def hashed() -> int:
        return int(scan.FolderScan(folder, tmp_path / "cache", {}).read().hashed)

    # files that were written just now may be written again within the same tick
    assert [hashed(), hashed()] == [2, 2]
    monkeypatch.setattr(scan, "SETTLED", -(10**12))
    assert [hashed(), hashed()] == [2, 0]
    before = (folder / "a").stat()
    (folder / "a").write_text("3")
    os.utime(folder / "a", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert [hashed(), hashed()] == [1, 0]
    (tmp_path / "cache").write_text("{")
    assert hashed() == 2


def test_what_a_snapshot_has_stays_in_though_a_rule_ignores_it(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    for name in ("x", "y"):
        (tmp_path / "out" / name).write_text(name)
    (tmp_path / ".stoaignore").write_text("out/")
    found = module("file_scan").FolderScan(tmp_path, tmp_path.parent / "cache", tree(entry("out/x"))).read()
    assert sorted(found.tree) == [".stoaignore", "out/x"]


def test_links_out_of_the_folder_and_sockets_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "up").symlink_to("../x")
    (tmp_path / "etc").symlink_to("/etc")
    (tmp_path / "in").symlink_to("a")
    os.mkfifo(tmp_path / "pipe")
    found = module("file_scan").FolderScan(tmp_path, tmp_path.parent / "cache", {}).read()
    assert sorted(found.tree) == ["in"]
    assert sorted(found.left_out) == ["etc", "pipe", "up"]


def written(folder: Path, before: dict[str, Any], after: dict[str, Any], texts: tuple[str, ...] = ()) -> Any:
    (folder / ".stoa").mkdir(exist_ok=True)
    data = {sha(text): text.encode() for text in ("hello", "new", "old", *texts)}
    writer = module("tree_writer").TreeWriter(folder, data.get)
    writer.write(before, after)
    return writer


def test_writing_replaces_what_is_as_expected_and_keeps_the_rest(tmp_path: Path) -> None:
    for name, text in (
        ("same", "old"),
        ("edited", "mine"),
        ("gone", "old"),
        ("gone_edited", "mine"),
        ("in_the_way", "mine"),
    ):
        (tmp_path / name).write_text(text)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "gone").write_text("old")
    (tmp_path / "d2").mkdir()
    (tmp_path / "d2" / "gone").write_text("old")
    (tmp_path / "d2" / "untracked").write_text("mine")
    names = ("same", "edited", "gone", "gone_edited", "d/gone", "d2/gone", "removed_here")
    before = tree(*(entry(name, "old") for name in names))
    after = tree(*(entry(name, "new") for name in ("same", "edited", "in_the_way", "n/e/w", "removed_here")))
    for _ in range(2):
        writer = written(tmp_path, before, after)
        assert sorted(writer.kept) == ["edited", "gone_edited", "in_the_way", "removed_here"]
    here = {
        str(each.relative_to(tmp_path)): each.read_text() for each in tmp_path.rglob("*") if each.is_file()
    }
    assert here == {
        "same": "new",
        "edited": "mine",
        "gone_edited": "mine",
        "in_the_way": "mine",
        "d2/untracked": "mine",
        "n/e/w": "new",
    }
    assert not (tmp_path / "d").exists()


def test_a_file_becomes_a_folder_and_a_folder_a_file(tmp_path: Path) -> None:
    one, other = tree(entry("a", "old"), entry("b/x", "old")), tree(entry("a/y", "new"), entry("b", "new"))
    written(tmp_path, {}, one)
    for before, after in ((one, other), (other, one)):
        assert written(tmp_path, before, after).kept == []
        for path in after:
            assert (tmp_path / path).is_file()


def test_modes_links_and_empty_folders_are_written(tmp_path: Path) -> None:
    kind = module("tree_text").TreeEntry
    after = tree(
        entry("run", mode=0o755),
        kind("l", "symlink", target="run"),
        kind("e", "dir", 0o755),
        entry("private", mode=0o600),
    )
    writer = written(tmp_path, {}, after)
    assert (writer.kept, os.readlink(tmp_path / "l"), (tmp_path / "e").is_dir()) == ([], "run", True)
    modes = {name: stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("run", "private")}
    assert modes["run"] & 0o100
    assert modes["private"] == 0o600
    plain = tree(entry("run", mode=0o644), kind("e", "symlink", target="run"))
    assert written(tmp_path, after, plain).kept == []
    assert not (tmp_path / "run").stat().st_mode & 0o111
    assert (tmp_path / "e").is_symlink()
    assert not (tmp_path / "l").is_symlink()


def test_nothing_is_written_or_removed_through_a_link(tmp_path: Path) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "folder"
    outside.mkdir()
    folder.mkdir()
    (outside / "x").write_text("old")
    (folder / "d").symlink_to(outside)
    writer = written(folder, tree(entry("d/x", "old")), tree(entry("d/y", "new")))
    assert writer.kept == ["d/y"]
    assert [each.name for each in outside.iterdir()] == ["x"]


def test_merging_takes_both_sides_and_finds_conflicts() -> None:
    old, one, two = (entry("p", text) for text in ("old", "one", "two"))
    cases = [
        # base, mine, theirs, result or conflict
        (old, old, one, one),
        (old, one, old, one),
        (old, one, one, one),
        (old, None, old, None),
        (old, old, None, None),
        (old, None, None, None),
        (None, one, None, one),
        (None, None, one, one),
        (None, one, two, "conflict"),
        (old, one, two, "conflict"),
        (old, None, one, "conflict"),
        (old, one, None, "conflict"),
    ]
    for base, mine, theirs, wanted in cases:
        trees = [{"p": each} if each else {} for each in (base, mine, theirs)]
        merged, conflicts = module("project_work").merged_trees(*trees, None)
        assert (conflicts or [merged.get("p")]) == (["p"] if wanted == "conflict" else [wanted])
        for prefer, side in (("mine", mine), ("theirs", theirs)):
            merged, conflicts = module("project_work").merged_trees(*trees, prefer)
            assert conflicts == []
            assert merged.get("p") == (side if wanted == "conflict" else wanted)


def test_the_file_runs_alone_and_is_python_3_9(archive: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(archive) as content:
        for name in content.namelist():
            ast.parse(content.read(name), name, feature_version=(3, 9))
    command = [sys.executable, "-I", "-S", "-W", "error", str(archive)]
    environment = {"XDG_CACHE_HOME": str(tmp_path)}
    said = subprocess.run(
        [*command, "--version"], capture_output=True, text=True, check=True, env=environment
    )
    assert (said.stdout, said.stderr) == ("stoa.pyz 1.2.3\n", "")
