"""The quick look at a folder: taken when nothing changed, and never when anything did; and the client that unpacks itself."""

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.projects.client.client_shell import URL, module

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working copy without a server, in which files count as settled at once."""
    monkeypatch.setattr(module("file_scan"), "SETTLED", -(10**12))
    root = tmp_path / "x"
    (root / "d" / "empty").mkdir(parents=True)
    for name in ("a", "d/b", "d/c.pyc", "build"):
        (root / name).write_text("1")
    (root / "link").symlink_to("a")
    (root / ".stoaignore").write_text("build/\n.stoaignore\n")
    module("working_copy").WorkingCopy.create(root, {"url": URL, "project_id": "p"})
    copy = module("working_copy").WorkingCopy(root)
    text = module("tree_text")
    tree = copy.scan({}).tree
    record = {
        "id": "snap-1",
        "manifest_hash": copy.keep_manifest(text.tree_text(tree.values())),
        "sent": True,
    }
    copy.keep_snapshot({**record, "parents": [], "created_at": "2026-01-01T00:00:00Z"})
    copy.save(head="snap-1")
    assert copy.left_out_if_same() is None
    copy.scan(tree)
    return root


def seen(root: Path) -> Any:
    return module("working_copy").WorkingCopy(root).left_out_if_same()


def same_times(place: Path, text: str) -> None:
    before = place.stat()
    place.write_text(text)
    os.utime(place, ns=(before.st_atime_ns, before.st_mtime_ns))


def to_folder(place: Path) -> None:
    place.unlink()
    place.mkdir()


CHANGES: dict[str, Callable[[Path], Any]] = {
    "edited with the same size and time": lambda root: same_times(root / "a", "2"),
    "new": lambda root: (root / "d" / "new").write_text("1"),
    "new folder": lambda root: (root / "d" / "empty" / "more").mkdir(),
    "gone": lambda root: (root / "a").unlink(),
    "gone folder": lambda root: (root / "d" / "empty").rmdir(),
    "renamed": lambda root: (root / "a").rename(root / "z"),
    "runs": lambda root: (root / "a").chmod(0o755),
    "folder instead of a file": lambda root: to_folder(root / "d" / "b"),
    "folder instead of a file that a rule is not for": lambda root: to_folder(root / "build"),
    "link elsewhere": lambda root: ((root / "link").unlink(), (root / "link").symlink_to("d")),
    "replaced": lambda root: ((root / "n").write_text("1"), (root / "n").replace(root / "a")),
    "rules, though they are ignored": lambda root: (root / ".stoaignore").write_text(""),
    "other head": lambda root: module("working_copy").WorkingCopy(root).save(head="snap-2"),
    "damaged": lambda root: (root / ".stoa" / "quick_look").write_bytes(b'{"format": 1}\n'),
    "cut": lambda root: (root / ".stoa" / "quick_look").write_bytes(
        (root / ".stoa" / "quick_look").read_bytes()[:-8]
    ),
    "no text": lambda root: (root / ".stoa" / "quick_look").write_bytes(b"\xff"),
    "lost": lambda root: (root / ".stoa" / "quick_look").unlink(),
}


def test_a_folder_without_changes_is_seen_at_a_glance(folder: Path) -> None:
    assert seen(folder) == []
    (folder / "d" / "c.pyc").write_text("2")
    os.utime(folder / "d")  # as if a file came and went
    module("working_copy").WorkingCopy(folder).scan(
        module("working_copy").WorkingCopy(folder).tree_of("snap-1")
    )
    assert seen(folder) == []


@pytest.mark.parametrize("name", CHANGES)
def test_every_kind_of_change_is_noticed(folder: Path, name: str) -> None:
    CHANGES[name](folder)
    assert seen(folder) is None


def test_files_that_may_still_change_unnoticed_are_read_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module("file_scan"), "SETTLED", 10**15)
    copy = module("working_copy").WorkingCopy(folder)
    (folder / ".stoa" / "quick_look").unlink()
    copy.scan(copy.tree_of("snap-1"))
    assert seen(folder) is None


def test_rules_behind_a_link_are_read_again(folder: Path) -> None:
    (folder.parent / "rules").write_text("build/\n.stoaignore\n")
    (folder / ".stoaignore").unlink()
    (folder / ".stoaignore").symlink_to(folder.parent / "rules")
    copy = module("working_copy").WorkingCopy(folder)
    copy.scan(copy.tree_of("snap-1"))
    assert seen(folder) is None


def test_the_file_unpacks_itself_for_its_user_only(archive: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    environment = {"XDG_CACHE_HOME": str(cache), "HOME": str(tmp_path)}

    def version() -> str:
        command = [sys.executable, "-W", "error", str(archive), "--version"]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
        return done.stdout + done.stderr

    assert version() == "stoa.pyz 1.2.3\n"
    (unpacked,) = (cache / "stoa").iterdir()
    assert stat.S_IMODE(unpacked.stat().st_mode) == 0o700
    terminal = unpacked / "terminal.py"
    terminal.write_text(terminal.read_text().replace("{NAME} {SERVED", "mine {SERVED"))
    assert version() == "mine 1.2.3\n"
    unpacked.chmod(0o777)  # anybody may have written there
    assert version() == "stoa.pyz 1.2.3\n"
    (tmp_path / "file").write_text("")
    environment["XDG_CACHE_HOME"] = str(tmp_path / "file")
    assert version() == "stoa.pyz 1.2.3\n"
