"""The program that starts an analyser's tool: it limits itself, leaves the network where the system allows it, and becomes the tool.

Started by its path with seconds of processor time, bytes of memory, and the command: a program, or `-m` and a module of Python.
"""

import ctypes
import os
import resource
import runpy
import sys
from contextlib import suppress

OUTPUT = 64 << 20
"""Bytes that the tool may write to a file."""
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000


def _limit(cpu_seconds: int, memory: int) -> None:
    for name, value in (
        ("RLIMIT_CPU", cpu_seconds),
        ("RLIMIT_AS", memory),
        ("RLIMIT_FSIZE", OUTPUT),
        ("RLIMIT_CORE", 0),
        ("RLIMIT_NOFILE", 256),
    ):
        with suppress(AttributeError, ValueError, OSError):  # not every system has every limit
            resource.setrlimit(getattr(resource, name), (value, value))
    with suppress(AttributeError, OSError):
        library = ctypes.CDLL(None)
        if library.unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0:
            library.unshare(CLONE_NEWNET)


def main(cpu_seconds: int, memory: int, command: list[str]) -> None:
    """Become the tool."""
    _limit(cpu_seconds, memory)
    if command[0] == "-m":
        sys.argv = [command[1], *command[2:]]
        runpy.run_module(command[1], run_name="__main__", alter_sys=True)
    else:
        os.execv(command[0], command)  # noqa: S606 - no shell


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
