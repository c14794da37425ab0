"""A DNS server on loopback that answers TXT queries from a dictionary."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import dns.flags
import dns.message
import dns.rcode
import dns.rrset


@dataclass
class DnsServer:
    """Its address (`127.0.0.1:port`) and the texts by name. A name that is not there does not exist."""

    address: str
    texts: dict[str, list[str]] = field(default_factory=dict)

    def answer(self, query: bytes) -> bytes:
        """The response to a query."""
        asked = dns.message.from_wire(query)
        name = asked.question[0].name
        response = dns.message.make_response(asked)
        texts = self.texts.get(name.to_text(omit_final_dot=True))
        if texts is None:
            response.set_rcode(dns.rcode.NXDOMAIN)
        else:
            quoted = [f'"{text}"' for text in texts]
            response.answer.append(dns.rrset.from_text(name, 60, "IN", "TXT", *quoted))
        return response.to_wire()


@contextmanager
def dns_server() -> Iterator[DnsServer]:
    """Run the server."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening:
        listening.bind(("127.0.0.1", 0))
        server = DnsServer(f"127.0.0.1:{listening.getsockname()[1]}")

        def serve() -> None:
            with suppress(OSError):
                while True:
                    query, client = listening.recvfrom(4096)
                    if query == b"stop":
                        return
                    listening.sendto(server.answer(query), client)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server
        host, _, port = server.address.partition(":")
        listening.sendto(b"stop", (host, int(port)))
        thread.join()
