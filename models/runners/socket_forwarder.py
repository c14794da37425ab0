"""Runs inside a sandbox: lets programs reach Unix sockets as ports of 127.0.0.1, or be reached so. Needs Python 3.8 and nothing else.

`python3 socket_forwarder.py PORT:SOCKET… SOCKET:PORT… -- COMMAND…` listens on what is left of each colon and connects to what is right of it, then
becomes the command; a child forwards until the sandbox ends.
"""

# the command waits for what is imported here: the module `socket` would be half of the time that it waits
import _socket
import os
import sys

TYPING = False
if TYPING:
    from socket import socket


def listening(place: str) -> int:
    """Listen on a port or a socket; returns the descriptor."""
    listener = _socket.socket(_socket.AF_INET if place.isdigit() else _socket.AF_UNIX)
    if place.isdigit():
        listener.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", int(place)))
    else:
        before = os.umask(0)  # the server may be another user
        listener.bind(place)
        os.umask(before)
    listener.listen(64)
    return listener.detach()


def forward(listening_at: int, place: str) -> None:
    """Accept connections for ever, each joined to one to the port or socket."""
    import socket
    import threading

    listener = socket.socket(fileno=listening_at)
    while True:
        client, _ = listener.accept()
        server = socket.socket(socket.AF_INET if place.isdigit() else socket.AF_UNIX)
        try:
            server.connect(("127.0.0.1", int(place)) if place.isdigit() else place)
        except OSError:
            client.close()
            continue
        try:
            for source, target in ((client, server), (server, client)):
                threading.Thread(target=copy, args=(source, target), daemon=True).start()
        except RuntimeError:
            # no more threads are allowed here: this connection is lost, later ones are not
            for each in (client, server):
                try:  # noqa: SIM105  (another import)
                    each.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
                each.close()


def copy(source: "socket", target: "socket") -> None:
    """Copy bytes until the source ends, then say so to the target."""
    try:
        while data := source.recv(65536):
            target.sendall(data)
    except OSError:
        pass
    try:  # noqa: SIM105  (another import)
        target.shutdown(_socket.SHUT_WR)
    except OSError:
        pass


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
        import threading

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
