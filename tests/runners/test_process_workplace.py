"""Workplaces on disk: restoring a stored tree, commands in the sandbox, what they changed, and keeping a tree for the next time."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest
from sqlalchemy.orm import Session as OrmSession

from models.core.errors import Conflict, Invalid, NotFound
from models.projects.snapshots.manifest_store import manifest_entries, manifest_row, put_entries
from models.projects.snapshots.manifest_text import Entry
from models.runners import FileChange, Limits, Workplace, open_workplace, store_changes
from models.runners.process_workplace import ProcessWorkplace
from models.runners.sandbox_process import KeptOutput
from tests.factories import Person
from tests.projects.project_rows import manifest_of

pytestmark = pytest.mark.usefixtures("sandboxed")

FILES = {
    "README.md": "# Columns\n",
    "src/columns.py": "def columns():\n    return 12\n",
    "src/deep/one.txt": "one\n",
    "same/one.txt": "one\n",
    "node_modules/left.js": "left",
}


@pytest.fixture
def root(session: OrmSession, alice: Person) -> str:
    plain = manifest_of(alice.account.id, FILES)
    more = {"run.sh": FileChange(b"echo $1\n", executable=True), "link": FileChange(target="README.md")}
    return store_changes(alice.account.id, plain, more)


@pytest.fixture
def place(root: str, alice: Person) -> Iterator[Workplace]:
    opened = open_workplace("process", alice.account.id, root)
    yield opened
    opened.close()


def did(place: Workplace, command: str, seconds: float = 20) -> str:
    """The output of a command that succeeds."""
    done = place.run(command, seconds=seconds)
    assert done.succeeded, done
    return done.output


def test_a_tree_is_restored_as_it_was_stored(place: Workplace) -> None:
    assert place.list() == ["README.md", "link", "node_modules/", "run.sh", "same/", "src/"]
    assert did(place, "cat link same/one.txt; ./run.sh yes; id -u") == "# Columns\none\nyes\n1000\n"
    assert place.read("src/columns.py") == FILES["src/columns.py"].encode()
    assert place.changes() == {}


def test_what_commands_and_tools_change_is_a_change(place: Workplace, root: str, alice: Person) -> None:
    did(place, "echo new > a.txt; rm -r src; chmod +x README.md; ln -s a.txt alias; touch same/one.txt")
    place.write("b/c.txt", b"written")
    place.delete("same")
    found = place.changes()
    assert found == {
        "README.md": FileChange(b"# Columns\n", executable=True),
        "a.txt": FileChange(b"new\n"),
        "alias": FileChange(target="a.txt"),
        "b/c.txt": FileChange(b"written"),
        "same/one.txt": FileChange(),
        "src/columns.py": FileChange(),
        "src/deep/one.txt": FileChange(),
    }
    assert found.refused == {}
    stored = manifest_row(alice.account.id, store_changes(alice.account.id, root, found))
    assert stored is not None
    assert {each.path for each in manifest_entries(stored)} == {
        *("README.md", "a.txt", "alias", "b/c.txt", "link", "node_modules/left.js", "run.sh")
    }


def test_what_tools_make_for_themselves_is_no_change(place: Workplace) -> None:
    did(place, "mkdir -p .venv/lib target && touch .venv/lib/x target/CACHEDIR.TAG target/y")
    assert place.changes() == {}
    did(place, "echo right > node_modules/left.js")  # it was stored
    assert list(place.changes()) == ["node_modules/left.js"]


def test_what_no_tree_can_hold_is_named_and_nothing_else_lost(place: Workplace) -> None:
    did(
        place,
        "mkfifo pipe; ln -s /etc/passwd absolute; ln -s ../../x above; printf x > 'back\\slash'; "
        'python3 -c \'open(b"bytes\\xff", "w")\'; printf x > good; head -c 26500000 /dev/zero > large',
    )
    found = place.changes()
    assert list(found) == ["back\\slash", "good"]
    assert set(found.refused) >= {"pipe", "absolute", "above", "bytes?", "large"}
    assert "no ordinary file" in found.refused["pipe"]
    assert "leaves the project" in found.refused["absolute"]


def test_links_out_of_the_tree_lead_the_server_nowhere(place: Workplace) -> None:
    did(
        place, "ln -s /etc hosts; ln -s /etc/passwd users; rm -r src; ln -s /etc src; mkdir d; ln -s / d/root"
    )
    for tried in (
        lambda: place.read("users"),
        lambda: place.read("hosts/passwd"),
        lambda: place.list("hosts"),
        lambda: place.write("hosts/x", b""),
        lambda: place.write("users", b""),
        lambda: place.write("src/columns.py", b""),
        lambda: place.delete("hosts/passwd"),
        lambda: place.search("root", folder="hosts"),
    ):
        with pytest.raises(Invalid, match="link"):
            tried()
    assert place.search("root:") == []
    place.delete("d")
    place.delete("users")
    assert "users" not in place.list()


def test_reading_what_is_missing_or_no_file_says_so(place: Workplace) -> None:
    did(place, "mkfifo pipe")
    with pytest.raises(NotFound):
        place.read("nothing/here")
    with pytest.raises(Invalid, match="folder"):
        place.read("src")
    with pytest.raises(Invalid, match="no ordinary"):
        place.read("pipe")
    with pytest.raises(Invalid, match="more than the 3"):
        place.read("README.md", max_bytes=3)
    with pytest.raises(Invalid):
        place.write("src", b"x")
    with pytest.raises(NotFound):
        place.delete("nothing")


def test_lines_are_found_on_disk(place: Workplace) -> None:
    did(place, "mkdir .venv; echo COLUMNS > .venv/x; echo my columns > new.txt; chmod 000 new.txt")
    found = {(each.path, each.line) for each in place.search("columns")}
    assert {("README.md", 1), ("src/columns.py", 1)} <= found
    assert not any(path.startswith(".venv") for path, _ in found)


@pytest.mark.parametrize(
    ("command", "limits", "ended"),
    [
        ("sleep 20", Limits(wall_seconds=0.5), "timeout"),
        ("while :; do :; done", Limits(cpu_seconds=1), "timeout"),
        ("yes", Limits(output_bytes=2_000), "output"),
        (
            "python3 -c 'import mmap; m = mmap.mmap(-1, 400 << 20); m.write(bytes(400 << 20)); input()'",
            None,
            "",
        ),
        ("for i in 1 2 3 4 5 6 7 8 9; do head -c 9000000 /dev/zero > $i; sleep 0.2; done", None, "disk"),
        ("head -c 90000000 /dev/zero > one", None, "disk"),
    ],
)
def test_limits_end_a_command_and_say_which(
    alice: Person, session: OrmSession, command: str, limits: Limits | None, ended: str
) -> None:
    small = Limits(memory_bytes=200 << 20, disk_bytes=30 << 20)
    place = open_workplace("process", alice.account.id, None, limits=limits or small)
    done = place.run(f"exec {command}" if command.startswith("head") else command, seconds=15)
    if ended:
        assert done.ended == ended
    assert not done.succeeded
    assert place.run("true", seconds=5).succeeded or ended == "disk"
    place.close()


def test_output_comes_at_once_and_what_is_too_much_is_cut(place: Workplace) -> None:
    pieces: list[str] = []
    assert place.run(
        "echo one; echo two >&2; printf '\\377\\0'", seconds=5, on_output=pieces.append
    ).output == ("one\ntwo\n\ufffd\ufffd")
    assert "".join(pieces).startswith("one\n")
    kept = KeptOutput(4_000)
    for number in range(5_000):
        kept.add(f"{number}\n")
    assert kept.cut
    assert kept.text().startswith("0\n1\n")
    assert kept.text().endswith("4999\n")
    assert "characters are left out" in kept.text()
    assert len(kept.text()) < 4_100


def test_a_command_is_stopped_from_another_thread_with_all_it_started(place: Workplace) -> None:
    heard = threading.Event()

    def stop() -> None:
        heard.wait(10)
        place.stop()

    stopper = threading.Thread(target=stop)
    stopper.start()
    done = place.run("sleep 60 & echo started; wait", seconds=60, on_output=lambda text: heard.set())
    stopper.join()
    assert done.ended == "stopped"
    assert done.seconds < 30


def test_what_a_command_left_running_ends_with_it(place: Workplace) -> None:
    did(place, "(sleep 1; touch late) & echo gone")
    time.sleep(1.3)
    assert "late" not in place.list()


def test_environment_and_exit_code_are_those_that_were_asked_for(place: Workplace) -> None:
    done = place.run("env; exit 7", seconds=5, env={"COLOUR": "blue"})
    names = {line.partition("=")[0] for line in done.output.splitlines()}
    assert (done.ended, done.exit_code) == ("exit", 7)
    assert names <= {"PATH", "HOME", "LANG", "TMPDIR", "COLOUR", "PWD", "SHLVL", "_", "OLDPWD"}
    with pytest.raises(Invalid):
        place.run("a\0b", seconds=1)


def test_a_process_can_be_talked_to_and_reached_by_its_port(place: Workplace) -> None:
    assert isinstance(place, ProcessWorkplace)
    talk = place.start_process("read line; echo heard $line", seconds=20, stdin=True)
    assert talk.stdin is not None
    talk.stdin.write(b"you\n")
    assert talk.stdout.read(100) == b"heard you\n"
    assert talk.wait().succeeded
    server = place.start_process("python3 -m http.server --bind 127.0.0.1 8000", seconds=30, served_port=8000)
    try:
        assert b"200 OK" in _reached(str(place.served))
    finally:
        place.end_process(server)
    assert not server.running


def test_a_closed_workplace_runs_nothing_and_its_tree_is_kept_for_its_account_alone(
    place: Workplace, root: str, alice: Person, bob: Person
) -> None:
    assert isinstance(place, ProcessWorkplace)
    did(
        place,
        "echo secret > secret.txt; mkdir -p node_modules/new; chmod 700 src; echo x >> README.md; ln same/one.txt hard",
    )
    slot = place._slot
    place.close()
    place.close()
    with pytest.raises(Conflict):
        place.run("true", seconds=1)
    again = open_workplace("process", alice.account.id, root)
    assert isinstance(again, ProcessWorkplace)
    assert again._slot.folder == slot.folder
    assert did(again, "ls -A node_modules; cat README.md; ls /tmp/home") == "left.js\n# Columns\n"
    assert again.changes() == {}
    assert again.list() == ["README.md", "link", "node_modules/", "run.sh", "same/", "src/"]
    again.close()
    other = store_changes(alice.account.id, root, {"src/columns.py": FileChange(b"# changed\n")})
    changed = open_workplace("process", alice.account.id, other)
    assert changed.read("src/columns.py") == b"# changed\n"
    assert changed.changes() == {}
    changed.close()
    theirs = open_workplace("process", bob.account.id, None)
    assert theirs.list() == []
    theirs.close()


def test_a_tree_whose_files_are_missing_is_refused(alice: Person, session: OrmSession) -> None:
    root = put_entries(alice.account.id, [Entry("lost", "file", 0o644, "0" * 64, 3)])
    with pytest.raises(Invalid, match="not on the server"):
        open_workplace("process", alice.account.id, root)


def _reached(path: str) -> bytes:
    for _ in range(100):
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(path)
                client.sendall(b"GET / HTTP/1.0\r\n\r\n")
                if answer := client.recv(1_000):
                    return answer
        except OSError:
            pass
        time.sleep(0.1)
    return b""
