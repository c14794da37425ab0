"""A Unix socket in a folder that sandboxes can be given, and the connections to it: a bounded number of threads."""

import contextlib
import logging
import os
import secrets
import socket
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger("stoa.runners")

MAX_PATH = 100
"""Bytes of a path that the kernel takes for a socket, with room for its name."""


class UnixListener:
    """Serves each connection in a thread of its own, at most `most` at once; others wait, or are refused when too many wait. `close` it."""

    def __init__(self, folder: Path, serve: Callable[[socket.socket], None], *, most: int = 32) -> None:
        self.path = _path(folder)
        self._serve = serve
        self._free = threading.BoundedSemaphore(most)
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._closed = False
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(os.fspath(self.path))
        # its name is a secret, and the sandbox runs as another user
        self.path.chmod(0o666)
        self._listener.listen(most)
        self._thread = threading.Thread(target=self._accept, name="stoa-socket", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End all connections. Idempotent."""
        with self._lock:
            self._closed = True
            left = [*self._open]
        for each in (self._listener, *left):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.path.unlink(missing_ok=True)

    def _accept(self) -> None:
        while not self._closed:
            self._free.acquire()
            try:
                peer, _ = self._listener.accept()
            except OSError:
                self._free.release()
                return
            with self._lock:
                self._open.add(peer)
            threading.Thread(target=self._run, args=(peer,), name="stoa-socket", daemon=True).start()

    def _run(self, peer: socket.socket) -> None:
        try:
            self._serve(peer)
        except OSError:
            pass  # the peer has left
        except Exception:
            log.exception("a connection to the socket of a turn failed")
        finally:
            with self._lock:
                self._open.discard(peer)
            peer.close()
            self._free.release()


def is_dead(path: Path) -> bool:
    """Whether nobody listens at a socket any more."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False


def _path(folder: Path) -> Path:
    name = f"{secrets.token_urlsafe(9)}.sock"
    if len(os.fsencode(folder)) + len(name) + 1 > MAX_PATH:
        folder = Path(tempfile.gettempdir()) / "stoa-sockets"
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o711)
        if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
            raise OSError(f"{folder} belongs to another user")
    return folder / name
