"""Requests to processes of deployments: by the sockets that lead into their sandboxes."""

import http.client
import os
import socket
import stat
import threading
from contextlib import closing, suppress
from urllib.parse import urlsplit


class ProcessConnection(http.client.HTTPConnection):
    """One connection to a process, by its socket. `timeout` is for each wait, in seconds."""

    def __init__(self, path: str, *, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Connect. Raises OSError."""
        self.sock = connected(self._path, self.timeout or 10.0)


def connected(path: str, seconds: float) -> socket.socket:
    """A connection to a socket that lies in a folder which a sandbox can write. Links are not followed: one could lead to a socket of the
    machine's own, such as its database's. Raises OSError."""
    number = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not stat.S_ISSOCK(os.fstat(number).st_mode):
            raise ConnectionRefusedError(f"{path} is no socket")
        peer = socket.socket(socket.AF_UNIX)
        try:
            peer.settimeout(seconds)
            peer.connect(f"/proc/self/fd/{number}")
        except BaseException:
            peer.close()
            raise
        return peer
    finally:
        os.close(number)


def is_listening(path: str) -> bool:
    """Whether the sandbox behind a socket runs."""
    with suppress(OSError):
        connected(path, 1.0).close()
        return True
    return False


def health_problem(path: str, url_path: str, address: str, seconds: float) -> str:
    """What is wrong with what a process answers to a GET, as a sentence; empty if it answers 2xx or 3xx in so many seconds."""
    connection = ProcessConnection(path, timeout=seconds)
    # a process that sends a byte now and then would keep the connection for ever
    timer = threading.Timer(seconds, _abort, [connection])
    timer.daemon = True
    timer.start()
    try:
        headers = {
            "Host": urlsplit(address).netloc or "localhost",
            "User-Agent": "Stoa-Health",
            "Connection": "close",
        }
        connection.request("GET", url_path, headers=headers)
        with closing(connection.getresponse()) as answer:
            status = answer.status
    except TimeoutError:
        return f"GET {url_path} is not answered within {seconds:g} seconds."
    except ConnectionRefusedError:
        return "Its process does not run."
    except ConnectionError:
        if timer.finished.is_set():
            return f"GET {url_path} is not answered within {seconds:g} seconds."
        return "Nothing listens on its PORT, or what listens there closes the connection."
    except (OSError, http.client.HTTPException):
        return f"GET {url_path} is not answered in HTTP."
    finally:
        timer.cancel()
        connection.close()
    if 200 <= status < 400:
        return ""
    return f"GET {url_path} answers {status}, which is neither 2xx nor 3xx."


def _abort(connection: ProcessConnection) -> None:
    with suppress(OSError, AttributeError):
        connection.sock.shutdown(socket.SHUT_RDWR)
