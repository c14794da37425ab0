"""Runs inside a sandbox: lets programs reach Unix sockets as ports of 127.0.0.1, or be reached so. Needs Python 3.8 and nothing else.

`python3 socket_forwarder.py PORT:SOCKET… SOCKET:PORT… -- COMMAND…` listens on what is left of each colon and connects to what is right of it, then
becomes the command; a child forwards until the sandbox ends.
"""

import contextlib
import os
import socket
import sys
import threading


def listening(place: str) -> socket.socket:
    """Listen on a port or a socket."""
    if place.isdigit():
        return socket.create_server(("127.0.0.1", int(place)))
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(place)
    os.chmod(place, 0o666)  # noqa: S103 - the server may be another user
    listener.listen(64)
    return listener


def forward(listener: socket.socket, place: str) -> None:
    """Accept connections for ever, each joined to one to the port or socket."""
    while True:
        client, _ = listener.accept()
        server = socket.socket(socket.AF_INET if place.isdigit() else socket.AF_UNIX)
        try:
            server.connect(("127.0.0.1", int(place)) if place.isdigit() else place)
        except OSError:
            client.close()
            continue
        for source, target in ((client, server), (server, client)):
            threading.Thread(target=copy, args=(source, target), daemon=True).start()


def copy(source: socket.socket, target: socket.socket) -> None:
    """Copy bytes until the source ends, then say so to the target."""
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def main(arguments: "list[str]") -> None:
    """See the module."""
    split = arguments.index("--")
    listeners = []
    for each in arguments[:split]:
        here, _, there = each.partition(":")
        listeners.append((listening(here), there))
    if os.fork() == 0:
        # what reads the command's output must not wait for this process
        quiet = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(quiet, number)
        threads = [threading.Thread(target=forward, args=each) for each in listeners]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        os._exit(0)
    command = arguments[split + 1 :]
    os.execvp(command[0], command)  # noqa: S606 - what it was started for


if __name__ == "__main__":
    main(sys.argv[1:])
