"""Connections to providers: proxies, certificates, methods, and aborted responses."""

import base64
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.core.settings import ROOT, load_settings
from models.gateway.pricing import PriceTable
from models.gateway.routing import Router
from models.gateway.upstream import (
    BrokenConnection,
    Egress,
    HttpUpstream,
    ProviderRequest,
    Unreachable,
    UpstreamTimeouts,
)
from tests.fakes import upstream as fakes
from tests.fakes.pictures import certificate
from tests.fakes.proxy import FakeProxy, proxy_to
from tests.fakes.upstream import FakeUpstream

HOST = "provider.example"
"""A host name that only the proxy resolves."""
CREDENTIALS = f"Basic {base64.b64encode(b'someone:p@ss').decode()}"
TIMEOUTS = UpstreamTimeouts(20, 20, 20)


def provider_request(url: str, method: str = "POST") -> ProviderRequest:
    return ProviderRequest(
        url, {"Authorization": "Bearer sk-provider"}, b"{}" if method == "POST" else b"", method
    )


def read_all(upstream: HttpUpstream, request: ProviderRequest) -> bytes:
    answer = upstream.send(request)
    try:
        assert answer.status == 200
        return answer.read()
    finally:
        answer.close()


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    """A self-signed certificate of a host; the file with its key is in the same folder."""
    return _authority(tmp_path, HOST)


def _authority(folder: Path, host: str) -> Path:
    key, made = certificate(host)
    (folder / "server.pem").write_bytes(key + made)
    (folder / "ca.pem").write_bytes(made)
    return folder / "ca.pem"


@pytest.fixture
def secure(authority: Path) -> Iterator[FakeUpstream]:
    """A provider with TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.with_name("server.pem"))
    with fakes.running(context) as fake:
        yield fake


@pytest.fixture
def proxy(secure: FakeUpstream) -> Iterator[FakeProxy]:
    with proxy_to(secure.port) as fake:
        yield fake


def test_https_goes_through_a_tunnel_that_is_kept(
    secure: FakeUpstream, proxy: FakeProxy, authority: Path
) -> None:
    upstream = HttpUpstream("Provider", TIMEOUTS, Egress(https_proxy=proxy.url, ca_bundle=authority))
    for _ in range(2):
        assert b"Hello there." in read_all(upstream, provider_request(f"https://{HOST}:8443/v1/chat?x=1"))
    ((line, credentials),) = proxy.requests
    assert line.startswith(f"CONNECT {HOST}:8443 HTTP/1.")
    assert credentials == CREDENTIALS
    first, second = secure.requests
    assert (first.method, first.path, first.headers["host"]) == ("POST", "/v1/chat?x=1", f"{HOST}:8443")
    assert first.headers["authorization"] == "Bearer sk-provider"
    assert "proxy-authorization" not in first.headers | second.headers


def test_http_asks_the_proxy_for_the_whole_address() -> None:
    with fakes.running() as plain, proxy_to(plain.port) as proxy:
        upstream = HttpUpstream("Provider", TIMEOUTS, Egress(http_proxy=proxy.url))
        assert b"Hello there." in read_all(upstream, provider_request(f"http://{HOST}/v1/chat"))
        assert proxy.requests == [(f"POST http://{HOST}/v1/chat HTTP/1.1", CREDENTIALS)]
        assert plain.requests[0].headers["host"] == HOST


@pytest.mark.parametrize(
    ("url", "no_proxy", "proxied"),
    [
        ("https://api.example.org/v1", "", True),
        ("https://api.example.org/v1", "api.example.org", False),
        ("https://api.example.org/v1", "other.org, example.org", False),
        ("https://api.example.org/v1", ".example.org", False),
        ("https://api.example.org/v1", "notexample.org", True),
        ("https://api.example.org:8443/v1", "api.example.org:8443", False),
        ("https://api.example.org/v1", "api.example.org:8443", True),
        ("https://api.example.org/v1", "*", False),
        ("http://api.example.org/v1", "", False),
        ("https://localhost:8443/v1", "", False),
        ("https://127.0.0.1/v1", "", False),
        ("https://[::1]/v1", "", False),
    ],
)
def test_what_no_proxy_names_is_reached_directly(url: str, no_proxy: str, proxied: bool) -> None:
    origin, _ = Egress(https_proxy="http://proxy:3128", no_proxy=no_proxy).resolve(url)
    assert bool(origin.proxy) is proxied


@pytest.mark.parametrize("status", [403, 407, 502])
def test_a_proxy_that_refuses_is_told_without_its_password(
    secure: FakeUpstream, proxy: FakeProxy, authority: Path, status: int
) -> None:
    proxy.refuses = status
    egress = Egress(https_proxy=proxy.url, ca_bundle=authority)
    with pytest.raises(Unreachable) as failed:
        HttpUpstream("Provider", TIMEOUTS, egress).send(provider_request(f"https://{HOST}/v1"))
    told_of_it = f"{failed.value} {failed.value.__cause__!r} {egress!r}"
    assert "cannot be reached" in told_of_it
    assert "p%40ss" not in told_of_it
    assert "p@ss" not in told_of_it
    assert secure.requests == []


def test_a_proxy_that_is_not_there_is_unreachable(authority: Path) -> None:
    egress = Egress(https_proxy="http://127.0.0.1:1", ca_bundle=authority)
    with pytest.raises(Unreachable):
        HttpUpstream("Provider", TIMEOUTS, egress).send(provider_request(f"https://{HOST}/v1"))


def test_the_settings_lead_every_provider_through_the_proxy(
    secure: FakeUpstream, proxy: FakeProxy, authority: Path
) -> None:
    settings = load_settings(
        _env_file=None,
        https_proxy=proxy.url.removeprefix("http://"),
        no_proxy="elsewhere.example",
        stoa_ca_bundle=authority,
        openai_api_key="sk",
        openrouter_api_key="sk",
        openai_base_url=f"https://{HOST}/v1",
        openrouter_base_url=f"https://{HOST}/v1",
    )
    routes = Router(settings, PriceTable())
    for provider in (routes.direct[0], routes.openrouter):
        answer = provider.upstream.send(provider_request(f"{provider.endpoint.base_url}/chat"))
        assert answer.read()
        answer.close()
    assert [line.split()[:2] for line, _ in proxy.requests] == [["CONNECT", f"{HOST}:443"]] * 2
    assert proxy.url.removeprefix("http://") not in repr(settings)


def test_certificates_are_verified(secure: FakeUpstream, proxy: FakeProxy, authority: Path) -> None:
    for bundle, host in ((None, HOST), (authority, "another.example")):
        egress = Egress(https_proxy=proxy.url, ca_bundle=bundle)
        with pytest.raises(Unreachable):
            HttpUpstream("Provider", TIMEOUTS, egress).send(provider_request(f"https://{host}/v1"))
    assert secure.requests == []


def test_the_system_s_authorities_can_be_replaced(
    secure: FakeUpstream, proxy: FakeProxy, authority: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    upstream = HttpUpstream("Provider", TIMEOUTS, Egress(https_proxy=proxy.url))
    assert read_all(upstream, provider_request(f"https://{HOST}/v1"))


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "HEAD"])
def test_other_methods(fake_server: FakeUpstream, method: str) -> None:
    fake_server.reset()
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n" + (b"" if method == "HEAD" else b"ok")
    fake_server.will(lambda exchange: exchange.send(head))
    upstream = HttpUpstream("Provider", TIMEOUTS)
    for _ in range(2):
        assert (
            read_all(upstream, provider_request(f"{fake_server.url}/v1/models", method))
            == head.partition(b"\r\n\r\n")[2]
        )
    assert [request.method for request in fake_server.requests] == [method] * 2
    assert fake_server.connections == 1


def test_informational_responses_are_skipped(fake_server: FakeUpstream) -> None:
    hints = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    answered = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    fake_server.will(lambda exchange: exchange.send(hints + answered))
    upstream = HttpUpstream("Provider", TIMEOUTS)
    for _ in range(2):
        assert read_all(upstream, provider_request(f"{fake_server.url}/v1")) == b"ok"


def test_chunks_are_yielded_as_they_arrive_and_the_rest_can_be_aborted(
    secure: FakeUpstream, proxy: FakeProxy, authority: Path
) -> None:
    gate = threading.Event()
    secure.will(fakes.pausing(["first", "second"], gate, 1))
    upstream = HttpUpstream("Provider", TIMEOUTS, Egress(https_proxy=proxy.url, ca_bundle=authority))
    answer = upstream.send(provider_request(f"https://{HOST}/v1"))
    blocks = answer.blocks()
    assert next(blocks) == b"data: first\n\n"
    threading.Timer(0.2, answer.abort).start()
    with pytest.raises(BrokenConnection):
        next(blocks)
    answer.close()
    gate.set()


GREENLETS = """
import gevent.monkey
gevent.monkey.patch_all()
import sys, gevent
from models.gateway.upstream import BrokenConnection, HttpUpstream, ProviderRequest, UpstreamTimeouts

upstream = HttpUpstream("Provider", UpstreamTimeouts(20, 20, 20))
request = ProviderRequest(sys.argv[1], {}, b'{"stream": true}')

def ended():
    answer = upstream.send(request)
    gevent.spawn_later(0.2, answer.abort)
    try:
        for _ in answer.blocks():
            pass
    except BrokenConnection:
        return "ended"
    finally:
        answer.close()

def whole():
    answer = upstream.send(request)
    body = b"".join(answer.blocks())
    answer.close()
    return body.decode()

waiting = [gevent.spawn(ended) for _ in range(20)]
gevent.joinall(waiting, timeout=20, raise_error=True)
assert [each.value for each in waiting] == ["ended"] * 20
assert whole() == whole() == "data: x\\n\\n"
"""


def test_greenlets_wait_side_by_side_and_end_each_other_s_answers(fake_server: FakeUpstream) -> None:
    fake_server.reset()
    gate = threading.Event()
    fake_server.will(*[fakes.pausing(["x", "y"], gate, 1)] * 20, fakes.stream(["x"]))
    command = [sys.executable, "-c", GREENLETS, f"{fake_server.url}/v1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    gate.set()
    assert done.returncode == 0, done.stderr
    assert len(fake_server.requests) == 22
    assert fake_server.connections == 21
