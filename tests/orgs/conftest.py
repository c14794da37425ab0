"""Fixtures of the tests of organisations: an identity provider and DNS on loopback, and Stoa that may reach them."""

import warnings
from collections.abc import Iterator

import pytest
from authlib.deprecate import AuthlibDeprecationWarning
from flask import Flask

from app import create_app
from models.core import mail
from models.core.mail import Email
from models.core.settings import load_settings
from tests.fakes.dns_server import DnsServer, dns_server
from views.web.guards import limiter

with warnings.catch_warnings():
    # The fake issuer uses APIs that Authlib deprecates; the application does not.
    warnings.simplefilter("ignore", AuthlibDeprecationWarning)
    from oidc_provider_mock import run_server_in_thread


@pytest.fixture(autouse=True)
def fresh_limits(request: pytest.FixtureRequest) -> Iterator[None]:
    """Reset the rate limits."""
    yield
    for name in {"app", "sso_app"} & set(request.fixturenames):
        with request.getfixturevalue(name).app_context():
            limiter.reset()


@pytest.fixture
def outbox(monkeypatch: pytest.MonkeyPatch) -> list[Email]:
    """The e-mails that are sent from now on; none is enqueued."""
    sent: list[Email] = []
    monkeypatch.setattr(mail, "send", lambda _settings, message: sent.append(message))
    return sent


@pytest.fixture(scope="module")
def issuer() -> Iterator[str]:
    """An OpenID Connect issuer on loopback that accepts every subject."""
    with run_server_in_thread() as server:
        yield f"http://localhost:{server.server_port}"


@pytest.fixture(scope="module")
def resolver() -> Iterator[DnsServer]:
    """DNS on loopback."""
    with dns_server() as server:
        yield server


@pytest.fixture(scope="module")
def sso_app(
    app: Flask, resolver: DnsServer, postgres_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Flask]:
    """Stoa that may reach loopback and asks the DNS server of the tests, on the database of the other tests."""
    settings = load_settings(
        _env_file=None,
        stoa_data_dir=tmp_path_factory.mktemp("data"),
        stoa_secret_key="test-secret-test-secret-test-secret-test",
        stoa_base_url="http://localhost:8000",
        stoa_outgoing_networks="127.0.0.0/8,::1/128",
        stoa_dns_server=resolver.address,
    )
    made = create_app(settings, database_url=postgres_url)
    made.config["TESTING"] = True
    made.config["PROPAGATE_EXCEPTIONS"] = False
    yield made
    from models.core.db import db

    with made.app_context():
        db.engine.dispose()
    made.extensions["gateway"].pool.close()
