"""`flask gateway models`, `/readyz` and `/metrics`."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from flask import Flask
from flask.testing import FlaskClient
from prometheus_client import values
from pydantic import SecretStr
from sqlalchemy import Engine, text

from app import create_app
from models.core.settings import Settings
from models.gateway import metrics
from tests.factories import Person
from tests.fakes.upstream import FakeUpstream
from tests.gateway.conftest import MESSAGES


def run(app: Flask, *words: str) -> str:
    result = app.test_cli_runner().invoke(args=["gateway", *words])
    assert result.exit_code == 0, result.output
    return result.output


def test_models_without_providers(app: Flask) -> None:
    output = run(app, "models")
    assert "stoa/demo" in output
    assert "set   3 / 3 / 3 / 15" in output
    assert "No provider key is set" in output


def test_models_with_route_and_state_of_price(gateway_app: Flask) -> None:
    lines = {line.split()[0]: line for line in run(gateway_app, "models").splitlines() if line.strip()}
    assert "openai as gpt-5 " in lines["openai/gpt-5"]
    assert "set   1.25 / 0.125 / 1.25 / 10" in lines["openai/gpt-5"]
    assert "operator" in lines["openai/house-model"]
    assert "zero" in lines["openai/free-model"]
    assert "missing; the provider reports" in run(gateway_app, "models", "unknown-owner/unknown")
    assert "has no price" in run(gateway_app, "models", "openai/unknown")


def test_refused_names_are_listed(gateway_app: Flask, web: FlaskClient, rich: Person) -> None:
    body = {"model": "openai/unheard-of", "messages": MESSAGES}
    for _ in range(2):
        assert web.post("/v1/chat/completions", json=body, headers=rich.headers).status_code == 400
    gateway_app.extensions["gateway"].refused_calls.flush()
    output = run(gateway_app, "models", "gpt-5")
    assert "Refused without a price" in output
    assert "openai/unheard-of  2 times" in output


def test_readyz_asks_the_database(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    assert client.get("/readyz").json == {"status": "ready", "database": "ok"}
    pool = client.application.extensions["gateway"].pool

    def away(*_: Any, **__: Any) -> None:
        raise psycopg.OperationalError

    monkeypatch.setattr(pool, "execute", away)
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json) == (503, {"status": "unavailable", "database": "unreachable"})


def test_readyz_survives_a_connection_that_died(client: FlaskClient, engine: Engine) -> None:
    assert client.get("/readyz").status_code == 200
    own = client.application.extensions["gateway"].pool
    ((pid,),) = own.execute("SELECT pg_backend_pid()")
    with engine.begin() as connection:
        connection.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
    assert client.get("/readyz").json == {"status": "ready", "database": "ok"}


def test_metrics(web: FlaskClient, rich: Person, fake: FakeUpstream) -> None:
    body = {"model": "openai/gpt-4o-mini", "messages": MESSAGES, "stream": True}
    assert web.post("/v1/chat/completions", json=body, headers=rich.headers).data
    text = web.get("/metrics").text
    for name in (
        'stoa_calls_total{door="openai",outcome="settled",provider="openai"}',
        "stoa_call_seconds_bucket",
        "stoa_call_first_token_seconds_bucket",
        'stoa_tokens_total{bucket="output",provider="openai"}',
        'stoa_credits_total{provider="openai"}',
        'stoa_holds{state="live"} 0.0',
        "stoa_call_errors_total",
        "stoa_ledger_seconds_bucket",
        "stoa_database_up 1.0",
    ):
        assert name in text, name


def test_each_metric_is_exposed_once_for_all_workers(
    app: Flask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    monkeypatch.setattr(values, "ValueClass", values.MultiProcessValue())  # type: ignore[no-untyped-call]
    pool = app.extensions["gateway"].pool
    metrics.exposition(pool, {})
    lines = metrics.exposition(pool, {}).decode().splitlines()
    assert [line for line in lines if line.startswith("# HELP stoa_holds ")] == [
        "# HELP stoa_holds Holds by state"
    ]
    assert [line for line in lines if line.startswith("stoa_database_up")] == ["stoa_database_up 1.0"]


@pytest.mark.parametrize(
    ("address", "headers", "status"),
    [
        ("127.0.0.1", {}, 200),
        ("127.8.8.8", {}, 200),
        ("::1", {"Host": "[::1]:8000"}, 200),
        ("::ffff:127.0.0.1", {}, 200),
        ("127.0.0.1", {"Host": "127.0.0.1:8000"}, 200),
        # a private address is not loopback
        *((address, {}, 401) for address in ("10.0.0.7", "192.168.1.2", "172.17.0.1", "fe80::1", "fd00::1")),
        *(
            (address, {}, 401)
            for address in ("8.8.8.8", "::ffff:10.0.0.7", "0.0.0.0", "", "unix:", "2001:db8::1")
        ),
        # a proxy on this machine forwards other clients
        ("127.0.0.1", {"X-Forwarded-For": "127.0.0.1"}, 401),
        ("127.0.0.1", {"x-forwarded-for": ""}, 401),
        ("127.0.0.1", {"Forwarded": "for=127.0.0.1"}, 401),
        ("127.0.0.1", {"X-Real-IP": "127.0.0.1"}, 401),
        ("127.0.0.1", {"Via": "1.1 proxy"}, 401),
        ("127.0.0.1", {"X-Forwarded-Host": "localhost"}, 401),
        # a page of another origin in a browser on this machine
        ("127.0.0.1", {"Host": "rebound.example.org"}, 401),
        ("127.0.0.1", {"Host": "localhost.example.org"}, 401),
        # no token is configured, so none is accepted
        ("10.0.0.7", {"Authorization": "Bearer "}, 401),
        ("10.0.0.7", {"Authorization": "Bearer x"}, 401),
    ],
)
def test_metrics_are_for_this_machine(
    client: FlaskClient, address: str, headers: dict[str, str], status: int
) -> None:
    answer = client.get("/metrics", headers=headers, environ_base={"REMOTE_ADDR": address})
    assert answer.status_code == status


@pytest.fixture
def made(postgres_url: str, gateway_settings: Settings, app: Flask) -> Iterator[Callable[..., FlaskClient]]:
    """A test client of an application with other settings."""
    pools = []

    def make(**changed: Any) -> FlaskClient:
        flask = create_app(gateway_settings.model_copy(update=changed), database_url=postgres_url)
        pools.append(flask.extensions["gateway"].pool)
        return flask.test_client()

    yield make
    for pool in pools:
        pool.close()


def test_metrics_behind_proxies_are_for_clients_on_this_machine(made: Callable[..., FlaskClient]) -> None:
    client = made(stoa_proxies=1)
    for told in ("127.0.0.1", "127.0.0.1, 10.0.0.7", "10.0.0.7"):
        assert client.get("/metrics", headers={"X-Forwarded-For": told}).status_code == 401
    assert client.get("/metrics").status_code == 200


def test_metrics_with_a_token(made: Callable[..., FlaskClient]) -> None:
    client = made(stoa_metrics_token=SecretStr("metrics-token-metrics-token"))
    for given, status in (("metrics-token-metrics-token", 200), ("wrong", 401), ("", 401), ("häßlich", 401)):
        for address in ("127.0.0.1", "8.8.8.8"):
            answer = client.get(
                "/metrics",
                headers={"Authorization": f"Bearer {given}"},
                environ_base={"REMOTE_ADDR": address},
            )
            assert answer.status_code == status
    assert client.get("/metrics").status_code == 401
