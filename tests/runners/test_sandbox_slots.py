"""Slots of sandboxes: leased once each, shared by no two accounts, and swept when their worker has died."""

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from models.core import jobs
from models.core.settings import Settings, load_settings
from models.runners import process_workplace, sandbox_home
from models.runners.sandbox_home import FIRST_UID, SandboxesBusy, SandboxHome, keep, take_kept
from models.runners.sandbox_probe import process_state
from models.runners.unix_listener import UnixListener, is_dead

ROOT = Path(__file__).parents[2]


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Settings]:
    """A machine with two slots, which their users can reach."""
    with tempfile.TemporaryDirectory(prefix="stoa-slots-") as base:
        os.chmod(base, 0o711)
        yield load_settings(
            _env_file=None, stoa_data_dir=tmp_path / "data", stoa_sandbox_dir=base, stoa_sandboxes=2
        )


def test_a_folder_that_the_users_of_slots_cannot_reach_is_named(small: Settings, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("not root, so the slots have the server's own user")
    hidden = tmp_path / "hidden"
    hidden.mkdir(mode=0o700)
    state = process_state(small.model_copy(update={"stoa_sandbox_dir": hidden / "slots"}))
    assert not state.available
    assert "STOA_SANDBOX_DIR" in state.sentence


def test_a_slot_is_leased_once_and_more_than_all_are_refused(small: Settings) -> None:
    home, other = SandboxHome(small), SandboxHome(small)
    one, two = home.lease("a", "t"), other.lease("a", "t")
    assert one.number != two.number
    with pytest.raises(SandboxesBusy) as refused:
        home.lease("b", "t")
    assert (refused.value.status, refused.value.retry_after) == (503, 10)
    one.release()
    one.release()
    assert home.lease("b", "t").number == one.number


def test_a_kept_tree_is_found_again_and_others_take_other_slots(small: Settings) -> None:
    home = SandboxHome(small)
    slot = home.lease("a", "tree")
    slot.make("work")
    keep(slot, "a", "tree", "token")
    slot.release()
    other = home.lease("b", "tree")
    assert other.number != slot.number
    again = home.lease("a", "tree")
    assert again.number == slot.number
    assert take_kept(again) == ("a", "tree", "token")
    assert take_kept(again) is None


def test_leftovers_of_free_slots_are_swept_and_kept_trees_after_an_hour(
    small: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = SandboxHome(small)
    kept, busy = home.lease("a", "tree"), home.lease("b", "tree")
    for slot in (kept, busy):
        (slot.make("work") / "file").write_text("x")
    keep(kept, "a", "tree", "token")
    kept.release()
    assert home.sweep() == 0
    monkeypatch.setattr(sandbox_home, "KEEP_SECONDS", 0)
    monkeypatch.setattr(jobs, "get_settings", lambda: small)
    jobs.sweep_sandboxes(0)
    assert not kept.folder.exists()
    assert (busy.folder / "work" / "file").exists()
    busy.release()
    assert home.sweep() == 1
    assert not busy.folder.exists()


def test_sockets_that_nobody_listens_at_are_removed(small: Settings) -> None:
    home = SandboxHome(small)
    live = UnixListener(home.base / "sockets", lambda peer: None)
    dead = UnixListener(home.base / "sockets", lambda peer: None)
    kept_path = dead.path
    dead.close()
    subprocess.run(
        [sys.executable, "-c", f"import socket; socket.socket(socket.AF_UNIX).bind({str(kept_path)!r})"],
        check=True,
    )
    assert is_dead(kept_path)
    home.sweep()
    assert not kept_path.exists()
    assert live.path.exists()
    live.close()


@pytest.mark.usefixtures("sandboxed")
def test_a_killed_worker_leaves_no_process_and_no_files(small: Settings) -> None:
    worker = textwrap.dedent(f"""
        import sys
        from pathlib import Path
        from models.core.settings import load_settings
        from models.runners.sandbox_command import SandboxPlan, find_program
        from models.runners.sandbox_home import SandboxHome
        from models.runners.sandbox_process import SandboxProcess
        from models.runners.workplace import Limits
        settings = load_settings(_env_file=None, stoa_data_dir=Path({str(small.data_dir)!r}),
            stoa_sandbox_dir=Path({str(small.stoa_sandbox_dir)!r}), stoa_sandboxes=2)
        home = SandboxHome(settings)
        slot = home.lease("a", "t")
        plan = SandboxPlan(slot.make("work"), slot.make("tmp"), home.base / "etc", Limits())
        command = ["/bin/sh", "-c", "setsid sleep 300 & echo begun; sleep 300"]
        process = SandboxProcess(find_program(settings), plan, command, uid=slot.uid, seconds=300)
        print(process.stdout.read(10), process.pid, flush=True)
        sys.stdin.read()
    """)
    running = subprocess.Popen(
        [sys.executable, "-c", worker], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    )
    assert running.stdout is not None
    assert running.stdin is not None
    pid = int(running.stdout.readline().split()[-1])
    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    assert len(family) >= 3
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    running.stdin.close()
    running.stdout.close()
    _, alive = psutil.wait_procs(family, timeout=10)
    assert [each for each in alive if each.status() != psutil.STATUS_ZOMBIE] == []
    home = process_workplace.sandbox_home(small)  # sweeps
    assert not [*(home.base / "slots").iterdir()]


def test_users_of_slots_are_apart(small: Settings) -> None:
    home = SandboxHome(small)
    uids = {home.lease(name, "t").uid for name in ("a", "b")}
    assert uids in ({FIRST_UID, FIRST_UID + 1}, {None})


@pytest.mark.parametrize("files", [0, 3, sandbox_home.FEW + 5])
def test_folders_are_removed_whatever_is_in_them_and_links_are_not_followed(
    tmp_path: Path, files: int
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("x")
    gone = tmp_path / "gone"
    (gone / "a" / "b").mkdir(parents=True)
    (gone / "link").symlink_to(outside)
    (gone / "a" / "broken").symlink_to("nowhere")
    for number in range(files):
        (gone / "a" / f"file{number}").write_text("x")
    (gone / "a" / "b").chmod(0)
    sandbox_home.remove(gone)
    assert not gone.exists()
    assert (outside / "kept").read_text() == "x"
    sandbox_home.remove(gone)
