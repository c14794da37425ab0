"""An HTTPS server on loopback with scripted responses and a self-signed certificate."""

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

HOST = "pictures.example"


@dataclass
class Pictures:
    """The server: `answers` by path, recorded `requests` (path, host), and an SSL context that trusts it."""

    port: int
    context: ssl.SSLContext
    answers: dict[str, Callable[[BaseHTTPRequestHandler], None]] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)

    def url(self, path: str, host: str = HOST) -> str:
        """The URL of a path on this server."""
        return f"https://{host}:{self.port}{path}"

    def serve(self, path: str, body: bytes, status: int = 200, **headers: str) -> str:
        """Serve this response at a path. Returns its URL."""

        def answer(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                handler.send_header(name.replace("_", "-"), value)
            handler.end_headers()
            handler.wfile.write(body)

        self.answers[path] = answer
        return self.url(path)

    def redirect(self, path: str, to: str, status: int = 302) -> str:
        """Redirect a path. Returns its URL."""
        return self.serve(path, b"", status, Location=to)


@contextmanager
def pictures_server(folder: Path) -> Iterator[Pictures]:
    """Run the server, with its key in `folder`."""
    key, server_certificate = certificate(HOST)
    file = folder / "server.pem"
    file.write_bytes(key + server_certificate)
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(file)
    trusting_context = ssl.create_default_context(cadata=server_certificate.decode())

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            fake.requests.append((self.path, self.headers["Host"]))
            answer = fake.answers.get(self.path)
            if answer is None:
                self.send_error(404)
            else:
                answer(self)
            self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            """Disable logging."""

    class Server(ThreadingHTTPServer):
        def finish_request(self, request, client_address):  # type: ignore[no-untyped-def]
            with suppress(OSError), server_context.wrap_socket(request, server_side=True) as wrapped:
                super().finish_request(wrapped, client_address)  # type: ignore[arg-type]

    server = Server(("127.0.0.1", 0), Handler)
    fake = Pictures(server.server_address[1], trusting_context)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()


def certificate(host: str) -> tuple[bytes, bytes]:
    """A new key and its self-signed certificate for a host, in PEM format."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return (
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
        signed.public_bytes(serialization.Encoding.PEM),
    )
