"""SSRF protection: no private address is ever connected to, however it is written or reached."""

import socket
import time
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler

import pytest

from models.core import safe_fetch
from models.core.safe_fetch import FetchFailed, FetchPolicy, fetch, is_public
from tests.fakes.pictures import HOST, Pictures, pictures_server

PRIVATE = (
    *("0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "127.0.0.1", "127.1.2.3", "169.254.169.254"),
    *("169.254.1.1", "172.16.0.1", "172.31.255.255", "192.168.0.1", "192.0.0.1", "192.0.0.192", "192.0.2.1"),
    *("100.64.0.1", "100.127.255.254", "100.100.100.200", "198.18.0.1", "198.51.100.7", "203.0.113.7"),
    *("224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255", "168.63.129.16", "192.88.99.1"),
    *("::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::ffff:169.254.169.254"),
    *("64:ff9b::7f00:1", "64:ff9b::808:808", "64:ff9b:1::1", "100::1", "fe80::1", "fe80::1%eth0", "fec0::1"),
    *("fc00::1", "fd00:ec2::254", "fd20:ce::254", "ff02::1", "2001::1", "2001:db8::1", "2001:10::1"),
    *("2002:7f00:1::", "2002:808:808::1", "3fff::1", "5f00::1", "4000::1"),
    *("", "localhost", "example.org", "127.0.0.1:80"),
)
PUBLIC = (
    "8.8.8.8",
    "1.1.1.1",
    "140.82.112.3",
    "100.63.255.255",
    "100.128.0.1",
    "172.32.0.1",
    "2606:4700::1111",
)

WRITTEN = (
    *("127.0.0.1", "localhost", "LOCALHOST", "localhost.", "127.1", "0", "0.0.0.0"),
    *("2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "017700000001", "127.0.0.1."),
    *(
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[0:0:0:0:0:ffff:127.0.0.1]",
        "[64:ff9b::7f00:1]",
    ),
    *(
        "[fe80::1]",
        "[fd00:ec2::254]",
        "169.254.169.254",
        "0xa9fea9fe",
        "2852039166",
        "10.0.0.1",
        "192.168.1.1",
    ),
    *("100.64.0.1", "[::ffff:169.254.169.254]", "[2002:7f00:1::]", "[fe80::1%25lo]"),
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pictures]:
    with pictures_server(tmp_path_factory.mktemp("tls")) as made:
        yield made


def policy_for(server: Pictures, **names: Sequence[str]) -> FetchPolicy:
    """A policy that allows loopback under one name; everything else is checked as usual."""

    def resolve(host: str, port: int) -> Sequence[str]:
        known = {HOST: ["127.0.0.1"], **{name.replace("_", "."): found for name, found in names.items()}}
        return known[host] if host in known else safe_fetch.resolve(host, port)

    def allows(address: str) -> bool:
        return address == "127.0.0.1" or is_public(address)

    return FetchPolicy(resolve, allows, server.context)


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_are_known(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_known(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("host", WRITTEN)
def test_nothing_private_is_connected_to_however_it_is_written(
    server: Pictures, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> socket.socket:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket, "create_connection", never)
    with pytest.raises(FetchFailed, match=r"not on the public internet|has no address|this is not a URL"):
        fetch(f"https://{host}:{server.port}/a.png", max_bytes=10, seconds=60)


@pytest.mark.parametrize(
    "host", ["10.0.0.1", "169.254.169.254", "[::1]", "[::ffff:10.0.0.1]", "inside.example"]
)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_leads_inside(server: Pictures, host: str, status: int) -> None:
    address = server.redirect("/away", f"https://{host}:{server.port}/secret", status)
    with pytest.raises(FetchFailed, match="not on the public internet"):
        fetch(
            address,
            max_bytes=9,
            seconds=60,
            policy=policy_for(server, inside_example=["8.8.8.8", "10.1.2.3"]),
        )


@pytest.mark.parametrize(
    "to",
    [
        "http://pictures.example/a.png",
        "file:///etc/passwd",
        "gopher://x/",
        "//user:pw@pictures.example/",
    ],
)
def test_no_redirect_leads_to_another_scheme(server: Pictures, to: str) -> None:
    with pytest.raises(FetchFailed, match="only https"):
        fetch(server.redirect("/other", to), max_bytes=100, seconds=60, policy=policy_for(server))


def test_a_name_is_resolved_once_and_the_checked_address_is_used(server: Pictures) -> None:
    answers = iter([["127.0.0.1"], ["10.0.0.1"]])
    resolved: list[str] = []

    def resolve(host: str, port: int) -> Sequence[str]:
        resolved.append(host)
        return next(answers)

    address = server.serve("/ok", b"picture")
    whole = FetchPolicy(resolve, lambda each: each == "127.0.0.1", server.context)
    assert fetch(address, max_bytes=100, seconds=60, policy=whole) == b"picture"
    assert resolved == [HOST]
    assert server.requests[-1] == ("/ok", f"{HOST}:{server.port}")


def test_a_name_with_one_private_address_is_refused(server: Pictures) -> None:
    mixed = FetchPolicy(lambda *_: ["8.8.8.8", "127.0.0.1"], is_public, server.context)
    with pytest.raises(FetchFailed, match=r"is 127\.0\.0\.1, which is not"):
        fetch(server.url("/ok"), max_bytes=100, seconds=60, policy=mixed)


def test_redirects_are_followed_and_end(server: Pictures) -> None:
    server.serve("/end?x=1", b"found")
    server.redirect("/one", "/two")
    server.redirect("/two", server.url("/end?x=1"))
    assert fetch(server.url("/one"), max_bytes=5, seconds=60, policy=policy_for(server)) == b"found"
    with pytest.raises(FetchFailed, match="more than 3 times"):
        fetch(server.redirect("/round", "/round"), max_bytes=5, seconds=60, policy=policy_for(server))


def test_the_certificate_must_be_of_the_host(server: Pictures) -> None:
    server.serve("/ok", b"picture")
    address = server.url("/ok", "other.example")
    with pytest.raises(FetchFailed, match="the connection failed"):
        fetch(address, max_bytes=100, seconds=60, policy=policy_for(server, other_example=["127.0.0.1"]))


@pytest.mark.parametrize("size", [11, 100_000])
@pytest.mark.parametrize("with_length", [True, False])
def test_no_more_is_read_than_the_limit(server: Pictures, size: int, with_length: bool) -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        if with_length:
            handler.send_header("Content-Length", str(size))
        handler.end_headers()
        handler.wfile.write(b"x" * size)

    server.answers["/large"] = answer
    with pytest.raises(FetchFailed, match="larger than 10 bytes"):
        fetch(server.url("/large"), max_bytes=10, seconds=60, policy=policy_for(server))


def dripping_body(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    drip(handler, b"x")


def dripping_head(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
    drip(handler, b"x")


def drip(handler: BaseHTTPRequestHandler, byte: bytes) -> None:
    for _ in range(200):
        handler.wfile.write(byte)
        handler.wfile.flush()
        time.sleep(0.1)


@pytest.mark.parametrize("answer", [dripping_body, dripping_head, lambda handler: time.sleep(20)])
def test_a_slow_server_is_cut_off_at_the_deadline(server: Pictures, answer: object) -> None:
    server.answers["/slow"] = answer  # type: ignore[assignment]
    began = time.monotonic()
    with pytest.raises(FetchFailed, match="takes too long"):
        fetch(server.url("/slow"), max_bytes=10_000, seconds=0.5, policy=policy_for(server))
    assert time.monotonic() - began < 10  # the response takes twenty seconds


def test_a_stalled_tls_handshake_is_cut_off_at_the_deadline(server: Pictures) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"https://{HOST}:{silent.getsockname()[1]}/a.png"
        began = time.monotonic()
        with pytest.raises(FetchFailed, match="takes too long"):
            fetch(address, max_bytes=10, seconds=0.5, policy=policy_for(server))
        assert time.monotonic() - began < 10


@pytest.mark.parametrize("status", [204, 206, 304, 401, 404, 500])
def test_only_status_200_is_accepted(server: Pictures, status: int) -> None:
    address = server.serve("/state", b"" if status in (204, 304) else b"words", status)
    with pytest.raises(FetchFailed, match=f"it answers {status}"):
        fetch(address, max_bytes=100, seconds=60, policy=policy_for(server))


@pytest.mark.parametrize(
    "address",
    [
        "http://pictures.example/a.png",
        "ftp://pictures.example/a.png",
        "https://user:pw@pictures.example/a.png",
        "https:///a.png",
        "https://pictures.example:notaport/",
        "https://pictures.example:99999/",
        "https://[::1/",
        "https://pictures.example/ä.png",
        "https://pictures.example/a b.png",
        "https://pictures.example/a\r\nHost: x",
        "https://pictures.example/" + "a" * 2000,
        "",
        "pictures.example/a.png",
    ],
)
def test_only_valid_https_urls_are_accepted(server: Pictures, address: str) -> None:
    with pytest.raises(FetchFailed, match=r"no address|not a URL|only https"):
        fetch(address, max_bytes=100, seconds=60, policy=policy_for(server))
