"""Attempts to leave the sandbox, none of which may succeed. A command that gets out says ESCAPED."""

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
from flask import Flask

from models.runners import Limits, levels, open_workplace
from models.runners.process_workplace import ProcessWorkplace
from models.runners.sandbox_command import find_program
from models.runners.syscall_filter import filter_program

LIMITS = Limits(
    wall_seconds=30,
    cpu_seconds=20,
    memory_bytes=256 << 20,
    processes=64,
    disk_bytes=64 << 20,
    output_bytes=100_000,
)
SECRET = "the secret of another tenant"


class Machine(NamedTuple):
    """What must be out of reach: a port, an abstract socket, another tenant's tree, a file of the data directory, and where sandboxes are."""

    port: int
    abstract: str
    theirs: Path
    data: Path
    base: Path


@pytest.fixture(scope="module")
def place(app: Flask) -> Iterator[ProcessWorkplace]:
    with app.app_context():
        state = levels()["process"]
        if not state.available:
            pytest.skip(state.sentence)
        opened = open_workplace("process", "escaping", None, limits=LIMITS)
    assert isinstance(opened, ProcessWorkplace)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def machine(app: Flask, place: ProcessWorkplace) -> Iterator[Machine]:
    data = app.extensions["settings"].data_dir / "secret.txt"
    data.write_text(SECRET)
    with app.app_context():
        other = open_workplace("process", "other", None)
    assert isinstance(other, ProcessWorkplace)
    other.write("secret.txt", SECRET.encode())
    abstract = f"stoa-escape-{os.getpid()}"
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket(socket.AF_UNIX) as named:
        named.bind(f"\0{abstract}")
        named.listen()
        base = other._slot.folder.parent.parent
        yield Machine(listener.getsockname()[1], abstract, other._slot.work / "secret.txt", data, base)
    other.close()


def python(*lines: str) -> str:
    """A command that says ESCAPED if these lines of Python raise nothing."""
    body = "\n    ".join(("import ctypes, os, socket, subprocess, sys", *lines, "print('ESCAPED')"))
    return f"python3 - <<'END'\ntry:\n    {body}\nexcept Exception as error:\n    print('held', repr(error)[:100])\nEND"


def syscall(*arguments: int) -> str:
    """A command that says ESCAPED if a system call does not fail."""
    numbers = ", ".join(f"ctypes.c_long({each})" for each in arguments)
    return python(
        "libc = ctypes.CDLL(None, use_errno=True)",
        f"assert libc.syscall({numbers}) >= 0, os.strerror(ctypes.get_errno())",
    )


X86 = {
    "ptrace": (101, 16, 1, 0, 0),
    "process_vm_readv": (310, 1, 0, 0, 0, 0, 0),
    "unshare users": (272, 0x10000000),
    "unshare mounts": (272, 0x00020000),
    "clone users": (56, 0x10000011, 0, 0, 0, 0),
    "clone3": (435, 0, 0),
    "mount": (165, 0, 0, 0, 0, 0),
    "chroot": (161, 0),
    "pivot_root": (155, 0, 0),
    "setns": (308, 0, 0),
    "bpf": (321, 0, 0, 0),
    "perf_event_open": (298, 0, 0, -1, -1, 0),
    "userfaultfd": (323, 1),
    "io_uring_setup": (425, 8, 0),
    "keyctl": (250, 0, -3, 1),
    "memfd_create": (319, 0, 0),
    "memfd_secret": (447, 0),
    "shmget": (29, 0, 4096, 0o1777),
    "msgget": (68, 0, 0o1777),
    "open_by_handle_at": (304, 3, 0, 0),
    "kexec_load": (246, 0, 0, 0, 0),
    "x32 getpid": (0x40000000 + 39,),
    "setuid 0": (105, 0),
}

COMMANDS: dict[str, str] = {
    "network by address": python("socket.create_connection(('1.1.1.1', 53), 3)"),
    "network by name": python("socket.getaddrinfo('example.org', 443)"),
    "the server's port": python("socket.create_connection(('127.0.0.1', {port}), 3)"),
    "another network device": "ls /sys/class/net 2>/dev/null | grep -qv '^lo$' && echo ESCAPED",
    "an abstract socket": python("s = socket.socket(socket.AF_UNIX)", "s.connect('\\0{abstract}')"),
    "the hypervisor's socket": python("socket.socket(40, socket.SOCK_STREAM)"),
    "raw packets": python("socket.socket(17, socket.SOCK_RAW)"),
    "kernel cryptography": python("socket.socket(38, 5)"),
    "another tenant's tree": "cat {theirs} 2>/dev/null && echo ESCAPED",
    "the data directory": "cat {data} 2>/dev/null && echo ESCAPED",
    "other slots": "ls {base} {base}/slots {base}/sockets /run/stoa/../../slots 2>/dev/null | grep . && echo ESCAPED",
    "processes of the server": "[ $(ls -d /proc/[0-9]* | wc -l) -gt 8 ] && echo ESCAPED",
    "root of the first process": "ls /proc/1/root/home /proc/1/root/root /proc/1/cwd/.. 2>/dev/null | grep -q secret && echo ESCAPED",
    "environment of others": "cat /proc/*/environ 2>/dev/null | grep -aq STOA_ && echo ESCAPED",
    "a process without the filter": "for p in /proc/[0-9]*; do grep -q '^Seccomp:.*2' $p/status || [ ! -e $p/status ] || echo ESCAPED; done",
    "a process with capabilities": "cat /proc/[0-9]*/status | grep -E '^Cap(Eff|Prm|Bnd)' | grep -q '[1-9a-f]$' && echo ESCAPED",
    "memory of the kernel": "head -c 1 /proc/kcore /dev/mem /dev/kmem 2>/dev/null | grep -q . && echo ESCAPED",
    "kernel settings": "echo 1 > /proc/sys/kernel/panic && echo ESCAPED; echo x > /proc/sysrq-trigger && echo ESCAPED",
    "core pattern": "echo '|/work/x' > /proc/sys/kernel/core_pattern && echo ESCAPED",
    "mounts": "mount -t tmpfs none /work && echo ESCAPED; mount --bind / /tmp && echo ESCAPED",
    "remounting": "mount -o remount,rw / && echo ESCAPED; mount -o remount,rw /usr && echo ESCAPED",
    "a sandbox in the sandbox": "unshare -Ur true && echo ESCAPED; unshare -r -m true && echo ESCAPED",
    "writing to the system": "for f in /usr /etc /bin /lib / /dev /proc /run /run/stoa /home /var; do touch $f/x && echo ESCAPED; done",
    "changing the system": "echo x >> /usr/bin/id && echo ESCAPED; rm /etc/passwd && echo ESCAPED; chmod 777 /usr && echo ESCAPED",
    "hard links out": "ln /usr/bin/id /work/id && echo ESCAPED; ln /etc/passwd /tmp/p && echo ESCAPED; ln /proc/1/mem m && echo ESCAPED",
    "links out": "ln -sf {data} here; cat here 2>/dev/null && echo ESCAPED; cp -L here there 2>/dev/null && echo ESCAPED",
    "programs of other users": "for p in su sudo mount passwd newgrp; do $p -c id </dev/null 2>/dev/null | grep -q 'uid=0' && echo ESCAPED; done",
    "a set-user-ID file": "cp /bin/sh s; chmod 6755 s; ./s -c 'id -u; id -g' | grep -qv 1000 && echo ESCAPED",
    "giving files away": "touch f; chown 0:0 f && echo ESCAPED; chown 1:1 f && echo ESCAPED",
    "capabilities": "grep -E '^Cap(Eff|Prm|Bnd|Amb|Inh)' /proc/self/status | grep -q '[1-9a-f]$' && echo ESCAPED",
    "new privileges": "grep -q '^NoNewPrivs:.*1' /proc/self/status || echo ESCAPED",
    "the filter": "grep -q '^Seccomp:.*2' /proc/self/status || echo ESCAPED",
    "devices": "mknod d c 1 1 && echo ESCAPED; mknod b b 8 0 && echo ESCAPED; ls /dev/sd* /dev/vd* /dev/kvm 2>/dev/null && echo ESCAPED",
    "open files of the server": "ls /proc/self/fd | grep -v '^[0123]$' && echo ESCAPED",
    "typing into a terminal": python("import fcntl", "fcntl.ioctl(0, 0x5412, b'x')"),
    "the clock": "date -s '2001-01-01' && echo ESCAPED",
    "the host's name": "hostname elsewhere && echo ESCAPED; [ $(hostname) = sandbox ] || echo ESCAPED",
    "limits": "ulimit -f unlimited && echo ESCAPED; ulimit -v 1 -d unlimited && echo ESCAPED",
    "priority": "nice -n -5 true 2>&1 | grep -q . || echo ESCAPED",
    "killing the first process": "kill -9 1; kill -9 -1; echo held",
    "killing the parent": "kill -9 $PPID; echo held",
    "the kernel's log": "dmesg 2>/dev/null | grep -q . && echo ESCAPED",
    "cgroups": "ls /sys/fs/cgroup 2>/dev/null | grep -q . && echo ESCAPED",
    **({name: syscall(*call) for name, call in X86.items()} if os.uname().machine == "x86_64" else {}),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_nothing_leaves_the_sandbox(place: ProcessWorkplace, machine: Machine, name: str) -> None:
    command = COMMANDS[name]
    for key, value in machine._asdict().items():
        command = command.replace(f"{{{key}}}", str(value))
    done = place.run(command, seconds=20)
    assert done.ended in ("exit", "lost"), done
    assert "ESCAPED" not in done.output, done
    assert SECRET not in done.output
    assert place.run("echo works", seconds=20).output == "works\n"


GREEDY: dict[str, str] = {
    "fork bomb": "b() { b | b & }; b; sleep 20",
    "fork bomb of sessions": "while :; do setsid sleep 20 & done",
    "threads": python(
        "import threading, time", "while True: threading.Thread(target=time.sleep, args=(20,)).start()"
    ),
    "memory": python("a = []", "while True: a.append(bytearray(10 << 20))"),
    "shared memory": python(
        "import mmap", "a = []", "while True: a.append(mmap.mmap(-1, 10 << 20)); a[-1].write(bytes(10 << 20))"
    ),
    "memory of many": "for i in 1 2 3 4 5 6; do python3 -c 'import time; x = bytearray(b\"1\") * (120 << 20); time.sleep(20)' & done; wait",
    "memory in /dev/shm": "head -c 300000000 /dev/zero > /dev/shm/x && echo ESCAPED",
    "disk": "i=0; while :; do head -c 8000000 /dev/zero > f$i; i=$((i+1)); sleep 0.05; done",
    "disk in /tmp": "i=0; while :; do head -c 8000000 /dev/zero > /tmp/f$i; i=$((i+1)); sleep 0.05; done",
    "a large file": "head -c 300000000 /dev/zero > large && echo ESCAPED",
    "a sparse file": "truncate -s 1T sparse && echo ESCAPED",
    "output": "yes",
    "processor": "while :; do :; done",
    "sleeping for ever": "trap '' TERM INT HUP; while :; do sleep 1000; done",
    "a process that stays": "setsid sh -c 'trap \"\" HUP TERM; sleep 1000' >/dev/null 2>&1 & echo left",
}


@pytest.mark.parametrize("name", GREEDY)
def test_nothing_takes_more_than_it_may(app: Flask, name: str) -> None:
    small = Limits(4, 3, 200 << 20, 40, 64 << 20, 50_000)
    with app.app_context():
        if not levels()["process"].available:
            pytest.skip(levels()["process"].sentence)
        place = open_workplace("process", "greedy", None, limits=small)
    assert isinstance(place, ProcessWorkplace)
    free = psutil.disk_usage(str(place._slot.folder)).free
    done = place.run(GREEDY[name], seconds=20)
    assert "ESCAPED" not in done.output
    assert done.seconds < 15, done
    assert len(done.output) < 60_000
    assert free - psutil.disk_usage(str(place._slot.folder)).free < 500 << 20
    assert left_over() == []
    place.close()


def left_over() -> list[str]:
    """Processes of this worker that outlived their sandbox."""
    for _ in range(20):
        found = [process for process in psutil.Process().children(recursive=True) if is_sandboxed(process)]
        if not found:
            return []
        time.sleep(0.1)
    return [str(each) for each in found]


def is_sandboxed(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.name() == "bwrap" or 61_000 <= process.uids().real < 62_000
    return False


def test_a_deep_tree_of_folders_does_no_harm(place: ProcessWorkplace) -> None:
    deep = "import os\nfor n in range(3000):\n    os.mkdir('d'); os.chdir('d')\nopen('x', 'w').close()"
    assert place.run(f'python3 -c "{deep}"', seconds=30).succeeded
    assert any("too deep" in reason for reason in place.changes().refused.values())
    assert place.search("nothing") == []
    assert place.run("rm -rf d", seconds=30).succeeded


def test_the_filter_of_system_calls_is_known_for_common_processors() -> None:
    for machine in ("x86_64", "aarch64"):
        program = filter_program(machine)
        assert program is not None
        assert len(program) % 8 == 0
        assert len(program) // 8 < 4_096
    assert filter_program("pdp11") is None


def test_a_machine_without_bubblewrap_says_so(app: Flask) -> None:
    from models.runners.sandbox_probe import process_state

    missing = app.extensions["settings"].model_copy(update={"stoa_sandbox_command": "no-such-program"})
    assert find_program(missing) is None
    state = process_state(missing)
    assert not state.available
    assert "no-such-program" in state.sentence
    assert state.sentence.startswith("Commands cannot run on this server")
    broken = app.extensions["settings"].model_copy(update={"stoa_sandbox_command": "/bin/false"})
    assert not process_state(broken).available
    lying = app.extensions["settings"].model_copy(update={"stoa_sandbox_command": "/bin/true"})
    assert not process_state(lying).available
