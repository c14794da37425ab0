"""Imports of prices: read, compared, tried on real calls, approved once, and in force on every worker from the same minute on."""

import io
import json
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import func, select
from sqlalchemy.orm import Session as OrmSession
from werkzeug.test import TestResponse

from models.accounts import User
from models.core.audit_log import AuditLog
from models.core.db import now
from models.core.errors import Conflict, Invalid, NotFound
from models.core.pool import Pool
from models.core.settings import GATEWAY_POOL, Settings, load_settings
from models.gateway import GatewayCall, PriceImport, approved_prices, price_imports
from models.gateway.approved_prices import ApprovedPrices
from models.gateway.price_comparison import compare, dry_run
from models.gateway.pricing import PriceTable
from models.gateway.provider_health import count_calls
from models.gateway.routing import Router
from tests import factories
from tests.conftest import CliRunner
from tests.factories import Person
from views.gateway.api.model_calls import gateway

HAIKU = "anthropic/claude-haiku-4.5"
DEARER = b'["anthropic/claude-haiku-4.5"]\ninput = 1.5\noutput = 5\ncached_input = 0.1\ncache_write = 1.25\n'
PATHS = ("/admin/prices", "/admin/prices/1", "/admin/prices/1/approval", "/admin/prices/1/rejection")


@pytest.fixture
def router(app: Flask, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Router:
    """The application serves models of Anthropic and OpenRouter."""
    keys = dict.fromkeys(("openrouter_api_key", "anthropic_api_key"), "sk-test")
    settings = load_settings(_env_file=None, stoa_data_dir=settings.data_dir, **keys)
    found = Router(settings, PriceTable())
    monkeypatch.setattr(gateway(app), "routes", found)
    return found


def post(who: Person, path: str, **data: Any) -> TestResponse:
    token = (who.browser.get("/api/auth/csrf").json or {}).get("csrfToken", "")
    return who.browser.post(path, data={"csrf_token": token} | data)


def read(raw: bytes, name: str = "prices.toml") -> dict[str, Any]:
    return price_imports.read_prices(raw, name)[0]


@pytest.mark.parametrize(
    ("name", "raw", "message"),
    [
        ("a.toml", b"[x", "neither TOML nor JSON"),
        ("a.json", b"\xff", "neither TOML nor JSON"),
        ("a.json", b"[]", "one table per model"),
        ("a.json", b"{}", "one table per model"),
        ("a.toml", b"[x]\ninput = -1\noutput = 1", "must be from 0"),
        ("a.json", b'{"x": {"input": NaN, "output": 1}}', "must be a number"),
        ("a.json", b'{"x": {"input": 1e99999, "output": 1}}', "'input' of 'x'"),
        ("a.toml", b"[x]\nprovider = 'openai'\ninput = 1\noutput = 1", "STOA_PRICES_FILE"),
        ("a.toml", b"[x]\nmax_output = 3", "set 'input' and 'output'"),
        ("a.toml", b"[x]\n", "sets no price"),
        ("a.json", b'{"data": [{"id": "x"}]}', "without 'id' and 'pricing'"),
        ("a.json", b'{"data": [{"id": "x", "pricing": {"prompt": "dear"}}]}', "not a number"),
        ("a.json", b"[" * 100_000, "neither TOML nor JSON"),
    ],
)
def test_bad_files_are_refused_with_the_reason(name: str, raw: bytes, message: str) -> None:
    with pytest.raises(Invalid, match=re.escape(message)):
        read(raw, name)


def test_openrouters_list_is_for_its_own_models(session: OrmSession, router: Router) -> None:
    listed = [
        {"id": "mistralai/mistral-large", "pricing": {"prompt": "0.000004", "completion": "0.000006", "request": "0"}},
        {"id": HAIKU, "pricing": {"prompt": "0.000009", "completion": "0.00001"}},
        {"id": "openrouter/auto", "pricing": {"prompt": "-1", "completion": "-1"}},
    ]  # fmt: skip
    entries, source = price_imports.read_prices(json.dumps({"data": listed}).encode(), "models.json")
    assert entries["mistralai/mistral-large"] == {"input": "4.000000", "output": "6.000000"}
    found = compare(router, price_imports.propose(entries, source, "root"))
    assert [each.route.requested for each in found.changes] == ["mistralai/mistral-large"]
    assert found.elsewhere == 1


def test_prices_of_one_provider_leave_those_of_others(
    app: Flask, session: OrmSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = [{"id": HAIKU, "pricing": {"prompt": "0.000009", "completion": "0.00001"}}]
    entries, source = price_imports.read_prices(json.dumps({"data": listed}).encode(), "models.json")
    steps = (
        (entries, source, ("9", None)),
        (read(DEARER), "a", ("1.5", "1.5")),
        (entries, source, ("9", "1.5")),
    )
    for number, (prices, name, expected) in enumerate(steps):
        price_imports.approve(
            price_imports.propose(prices, name, "root").id, "root", now() + timedelta(minutes=number)
        )
        session.commit()
        monkeypatch.setattr(approved_prices, "now", lambda: now() + timedelta(hours=1))
        pool = Pool(app.config["SQLALCHEMY_DATABASE_URI"], GATEWAY_POOL)
        worker = ApprovedPrices(pool)
        found = [worker.find(table, HAIKU) for table in ("openrouter", "anthropic")]
        assert tuple(each and f"{each.tiers[0].input.normalize():f}" for each in found) == expected
        pool.close()


def test_litellms_map_is_read() -> None:
    table = {
        "sample_spec": {"mode": "one of chat, …", "litellm_provider": "one of …"},
        "claude-haiku-4-5": {"mode": "chat", "litellm_provider": "anthropic", "input_cost_per_token": 1e-06, "output_cost_per_token": 5e-06},
        "bedrock/x": {"mode": "chat", "litellm_provider": "bedrock", "input_cost_per_token": 1, "output_cost_per_token": 1},
    }  # fmt: skip
    assert read(json.dumps(table).encode(), "map.json") == {
        "claude-haiku-4-5": {"input": "1.000000", "output": "5.000000"}
    }


def test_tiers_and_ways_to_be_served_are_compared(session: OrmSession, router: Router) -> None:
    more = (
        DEARER
        + b'["anthropic/claude-haiku-4.5".above.200000]\ninput = 3\n["anthropic/claude-haiku-4.5".speed.fast]\ninput = 9\noutput = 5\n'
    )
    (change,) = compare(router, price_imports.propose(read(more), "a", "root")).changes
    found = {(each.bucket, each.only): (each.old, each.new) for each in change.buckets}
    assert found["input", ""] == (1, Decimal("1.5"))
    assert found["input", "above 200,000 input tokens"] == (1, 3)
    assert found["input", "speed:fast"] == (1, 9)
    assert ("output", "speed:fast") not in found


def test_a_dry_run_prices_the_calls_of_last_month(session: OrmSession, router: Router, alice: Person) -> None:
    user = session.get_one(User, alice.id)
    for day in (1, 20, 40):
        at = now() - timedelta(days=day)
        message = factories.message(user, finished_at=at)
        factories.call(
            user, provider="anthropic", requested_model="claude-haiku-4.5", model="claude-haiku-4-5-20251001", message=message,
            finished_at=at, uncached_input_tokens=1_000_000, output_tokens=100_000, cost=Decimal("1.5"),
        )  # fmt: skip
    session.commit()
    while count_calls(["anthropic"], now()):
        session.commit()
    found = compare(router, price_imports.propose(read(DEARER), "prices.toml", "root"))
    (change,) = found.changes
    assert [(each.bucket, each.share) for each in change.buckets if each.bucket == "input"] == [
        ("input", Decimal("0.5"))
    ]
    tried = dry_run(router, found.changes, Decimal(0), now())
    assert (tried.calls, tried.before, tried.after) == (2, 300, 400)


def test_an_approval_is_in_force_from_one_minute_on(
    app: Flask, session: OrmSession, router: Router, monkeypatch: pytest.MonkeyPatch
) -> None:
    moment = datetime(2026, 11, 30, 12, 0, 1, tzinfo=UTC)
    first = price_imports.propose(read(DEARER), "a", "root")
    second = price_imports.propose(read(b"[x]\ninput = 1\noutput = 2"), "b", "root")
    price_imports.approve(first.id, "root", moment)
    assert first.effective_at == datetime(2026, 11, 30, 12, 2, tzinfo=UTC)
    price_imports.approve(second.id, "root", moment + timedelta(seconds=70))
    session.commit()
    for id in (first.id, second.id):
        with pytest.raises(Conflict):
            price_imports.approve(id, "root", moment)
    with pytest.raises(NotFound):
        price_imports.approve(1 << 62, "root", moment)
    pool = Pool(app.config["SQLALCHEMY_DATABASE_URI"], GATEWAY_POOL)
    times = [(119, None, None), (120, "1.5", None), (179, "1.5", None), (180, "1.5", "1")]
    for seconds, haiku, x in times:
        clock = moment.replace(second=0) + timedelta(seconds=seconds)
        monkeypatch.setattr(approved_prices, "now", lambda clock=clock: clock)
        worker = ApprovedPrices(pool)
        for name, rate in ((HAIKU, haiku), ("X", x)):
            price = worker.find("anthropic", name)
            assert (price and f"{price.tiers[0].input}") == rate, (seconds, name)
    table = PriceTable({}, worker.find)
    assert table.find("anthropic", HAIKU, "claude-haiku-4-5").source == f"import:{second.id}"  # type: ignore[union-attr]
    pool.close()


def test_calls_are_charged_by_an_approved_price(
    app: Flask, session: OrmSession, alice: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    prices = read(b"['stoa/demo']\ninput = 100\noutput = 1000\n")
    approved = price_imports.approve(
        price_imports.propose(prices, "a", "root").id, "root", now() - timedelta(hours=1)
    )
    assert alice.user is not None
    factories.grant(alice.user, 1000)
    session.commit()
    routes = gateway(app).routes
    pool = Pool(app.config["SQLALCHEMY_DATABASE_URI"], GATEWAY_POOL)
    monkeypatch.setattr(routes, "prices", PriceTable({}, ApprovedPrices(pool).find))
    monkeypatch.setattr(routes, "_routes", {})
    body = {"model": "stoa/demo", "messages": [{"role": "user", "content": "x"}]}
    assert alice.browser.post("/v1/chat/completions", json=body, headers=alice.headers).status_code == 200
    call = session.scalars(select(GatewayCall)).one()
    assert (call.price or {})["source"] == f"import:{approved.id}"
    assert (call.price or {})["output"] == "1000"
    pool.close()


def test_an_imported_price_can_be_ended(
    app: Flask, session: OrmSession, router: Router, monkeypatch: pytest.MonkeyPatch
) -> None:
    prices = DEARER + b"[only-here]\ninput = 1\noutput = 1\n"
    price_imports.approve(
        price_imports.propose(read(prices), "a", "root").id, "root", now() - timedelta(hours=1)
    )
    session.commit()
    pool = Pool(app.config["SQLALCHEMY_DATABASE_URI"], GATEWAY_POOL)
    monkeypatch.setattr(router, "prices", PriceTable({}, ApprovedPrices(pool).find))
    assert f"{router.find(HAIKU).price.tiers[0].input}" == "1.5"  # type: ignore[union-attr]
    ending = price_imports.propose(
        read(b"[only-here]\nremove = true\n['anthropic/claude-haiku-4.5']\nremove = true\n"), "b", "root"
    )
    found = compare(router, ending)
    assert [(each.route.requested, each.buckets[0].new) for each in found.changes] == [(HAIKU, 1)]
    assert ending.added_to({HAIKU: {}, "only-here": {}, "x": {}}) == {"x": {}}
    pool.close()


def test_operators_propose_compare_and_approve(
    app: Flask, session: OrmSession, router: Router, alice: Person, anonymous: Person
) -> None:
    root = factories.person(app, "root")
    assert post(root, "/admin/prices").status_code == 422
    address = post(root, "/admin/prices", file=(io.BytesIO(DEARER), "prices.toml")).headers["Location"]
    page = root.browser.get(address).text
    assert "+50.0%" in page
    for who in (alice, anonymous):
        for path in PATHS:
            assert who.browser.get(path).status_code in (302, 403, 405), path
            assert post(who, path).status_code in (303, 403, 405), path
    assert session.scalar(select(PriceImport.state)) == "proposed"
    assert post(root, f"{address}/approval").status_code == 303
    assert post(root, f"{address}/approval").status_code == 409
    assert "In force on all workers" in root.browser.get(address).text
    assert root.browser.get("/admin/prices/99999999999999999999").status_code == 404
    assert "Approved" in root.browser.get("/admin/prices").text
    session.rollback()
    actions = session.scalars(select(AuditLog.action).order_by(AuditLog.id)).all()
    assert [each for each in actions if each.startswith("prices.")] == ["prices.proposed", "prices.approved"]
    assert session.scalar(select(PriceImport.decided_by)) == "root@example.org"


def test_commands_say_what_changes(app: Flask, session: OrmSession, router: Router, tmp_path: Path) -> None:
    file = tmp_path / "prices.toml"
    file.write_bytes(DEARER)
    runner = CliRunner(app)
    said = runner.invoke(args=["gateway", "prices", "import", str(file)])
    assert "input: 1 -> 1.5  +50.0%" in said.output, said.output
    id = str(session.scalar(select(func.max(PriceImport.id))))
    assert "1 model changes" in runner.invoke(args=["gateway", "prices", "diff"]).output
    assert "in force on all workers from" in runner.invoke(args=["gateway", "prices", "approve", id]).output
    assert "was approved by cli" in runner.invoke(args=["gateway", "prices", "reject", id]).output
    assert "approved" in runner.invoke(args=["gateway", "prices", "list"]).output
