"""`flask gateway models`, `/readyz` and `/metrics`."""

from pathlib import Path
from typing import Any

import psycopg
import pytest
from flask import Flask
from flask.testing import FlaskClient
from prometheus_client import values
from sqlalchemy import Engine, text

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
    assert "missing; each call's cost" in run(gateway_app, "models", "unknown-owner/unknown")
    assert "has no price" in run(gateway_app, "models", "openai/unknown")


def test_refused_names_are_listed(gateway_app: Flask, web: FlaskClient, rich: Person) -> None:
    body = {"model": "openai/unheard-of", "messages": MESSAGES}
    for _ in range(2):
        assert web.post("/v1/chat/completions", json=body, headers=rich.headers).status_code == 400
    output = run(gateway_app, "models", "gpt-5")
    assert "Refused for want of a price" in output
    assert "openai/unheard-of  2 times" in output


def test_readyz_asks_the_database(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    assert client.get("/readyz").json == {"status": "ready", "database": "ok"}
    pool = client.application.extensions["gateway"].pool

    def away(*_: Any, **__: Any) -> None:
        raise psycopg.OperationalError

    monkeypatch.setattr(pool, "ask", away)
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json) == (503, {"status": "unavailable", "database": "unreachable"})


def test_readyz_survives_a_connection_that_died(client: FlaskClient, engine: Engine) -> None:
    assert client.get("/readyz").status_code == 200
    own = client.application.extensions["gateway"].pool
    ((pid,),) = own.ask("SELECT pg_backend_pid()")
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


def test_each_figure_is_told_once_however_many_workers(
    app: Flask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    monkeypatch.setattr(values, "ValueClass", values.MultiProcessValue())  # type: ignore[no-untyped-call]
    pool = app.extensions["gateway"].pool
    metrics.exposition(pool)
    lines = metrics.exposition(pool).decode().splitlines()
    assert [line for line in lines if line.startswith("# HELP stoa_holds ")] == [
        "# HELP stoa_holds Holds by state"
    ]
    assert [line for line in lines if line.startswith("stoa_database_up")] == ["stoa_database_up 1.0"]


def test_metrics_are_not_for_everybody(client: FlaskClient, app: Flask) -> None:
    assert client.get("/metrics", headers={"X-Forwarded-For": "1.2.3.4"}).status_code == 401
    assert client.get("/metrics", environ_base={"REMOTE_ADDR": "8.8.8.8"}).status_code == 401
    assert client.get("/metrics", environ_base={"REMOTE_ADDR": "10.0.0.7"}).status_code == 200
