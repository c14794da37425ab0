"""The operators' pages of providers and storage: figures from real calls, bounded reads, no messages and keys."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import event, text
from sqlalchemy.orm import Session as OrmSession

from models.accounts.users import User
from models.admin import storage_review
from models.core.db import db, now
from models.gateway import CallBody, ProviderRollup
from models.gateway.circuit_breaker import CircuitBreaker
from models.gateway.provider_health import count_calls, health_of, provider_faults
from models.orgs import Org
from models.orgs.webhooks import add_webhook, enqueue_delivery
from tests import factories
from tests.factories import Person

pytestmark = pytest.mark.usefixtures("desk")
PROVIDERS = ("openai", "openrouter", "azure", "gemini")
PAGES = (
    "/admin",
    "/admin/calls",
    "/admin/providers",
    "/admin/providers/openai",
    "/admin/jobs",
    "/admin/webhooks",
    "/admin/storage",
)


def called(owner: User, provider: str | None = "openai", ms: int = 900, minutes: int = 10, **kw: Any) -> str:
    """A call that ended some minutes ago; returns its id."""
    at = now() - timedelta(minutes=minutes)
    kw = {"provider": provider, "latency_ms": ms, "finished_at": at, "model": "gpt-x", **kw}
    if kw.get("state") != "failed":
        kw["message"] = factories.message(owner, finished_at=at)
    return factories.call(owner, **kw).request_id


def count(session: OrmSession) -> None:
    while count_calls(PROVIDERS, now()):
        session.commit()
    session.commit()


def test_calls_are_counted_once_by_class_of_error(session: OrmSession, alice: Person) -> None:
    user = session.get_one(User, alice.id)
    count(session)
    session.execute(text("UPDATE provider_counting SET until = now() - interval '2 days'"))
    for ms in (100, 300, 5_000):
        called(user, ms=ms, ttft_ms=ms // 2)
    called(user, error="upstream_cut", ms=9)
    for error, status in (
        ("upstream_timeout", 504),
        ("upstream_unreachable", 502),
        ("upstream_status", 429),
        ("upstream_status", 503),
        ("upstream_unavailable", 503),
        ("upstream_status", 400),
        ("internal", 500),
    ):
        called(user, state="failed", error=error, http_status=status)
    called(user, provider="openrouter", minutes=25 * 60)
    tried = [("azure", "upstream_timeout"), ("azure", "502"), ("azure", "circuit_open"), ("gone", "500")]
    after = [{"provider": name, "model": "gpt-x", "error": error} for name, error in tried]
    called(user, provider="gemini", routing={"why": "model", "after": after})
    failed = {"state": "failed", "error": "upstream_timeout", "http_status": 504}
    called(user, provider="azure", routing={"why": "model", "after": after}, **failed)
    called(user, state="failed", error="insufficient_credits", provider=None, model=None)
    called(user, minutes=0)
    for _ in range(2):
        count(session)
    tries = health_of("24h", now())
    assert (tries["azure"][""].calls, tries["gemini"][""].faults) == (6, 0)
    assert tries["azure"][""].errors == {"timeout": 2, "server_error": 2, "left_alone": 2}
    assert "gone" not in tries
    day = tries["openai"]
    whole = day[""]
    assert (whole.calls, whole.faults, sum(calls for calls, _ in whole.trend)) == (11, 6, 11)
    assert sum(faults for _, faults in whole.trend) == 6
    assert whole.errors == dict.fromkeys(
        (
            "timeout",
            "unreachable",
            "interrupted",
            "rate_limited",
            "server_error",
            "left_alone",
            "rejected",
            "other",
        ),
        1,
    )
    assert 100 <= (whole.latency_ms(0.5) or 0) <= 350
    assert whole.latency_ms(1.0) == 5_000
    assert whole.ttft_ms(1.0) == 2_500
    assert day["gpt-x"].calls == 11
    assert health_of("1h", now())["openai"][""].calls == 11
    week = health_of("7d", now())
    assert (week["openai"][""].calls, week["openrouter"][""].calls) == (11, 1)
    assert "openrouter" not in health_of("1h", now())


def test_providers_show_figures_and_the_reason_of_failed_calls(
    app: Flask, session: OrmSession, root: Person, alice: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "Not counted yet" in root.browser.get("/admin/providers").text
    user = session.get_one(User, alice.id)
    monkeypatch.setattr("views.admin.pages.provider_pages.PAGE", 2)
    for number in range(12):
        id = called(user, state="failed", error="upstream_status", http_status=503, model=f"m{number % 2}")
        session.add(
            CallBody(
                request_id=id, finished_at=now(), error_message="Overloaded " + "x" * 900, request=["prompt"]
            )
        )
    session.commit()
    count(session)
    breaker = CircuitBreaker("openai", "m1")
    for _ in range(10):
        breaker.failed("500")
    shown = root.browser.get("/admin/providers?window=1h").text
    breaker._open_until = 0.0
    breaker.succeeded()
    assert "Circuit open" in shown
    assert "Circuit open" not in root.browser.get("/admin/providers?window=1h").text
    for words in (
        "OpenAI",
        "12 server errors",
        "100.0%",
        "Overloaded",
        "api.openai.com",
        "OPENROUTER_API_KEY",
        "No key",
    ):
        assert words in shown, words
    assert "openai: 100% of 12 calls failed in the last hour" in root.browser.get("/admin").text
    first = root.browser.get("/admin/providers/openai?model=m1").text
    more = first.partition("data-load-more")[2].partition('href="')[2].partition('"')[0].replace("&amp;", "&")
    rest = root.browser.get(more, headers={"HX-Request": "true"}).text
    assert (first.count(">503<"), rest.count(">503<"), "<html" in rest) == (2, 2, False)
    for page in (shown, first, rest):
        assert "prompt" not in page
        assert "x" * 500 not in page
    for path, status in (
        ("?window=1y", 404),
        ("/nobody", 404),
        ("/a%00b", 404),
        ("/openai?before=x", 422),
        ("/openai?model=%00", 200),
    ):
        assert root.browser.get(f"/admin/providers{path}").status_code == status, path
    assert [len(provider_faults("openai", model=model, limit=50)) for model in (None, "m0", "none")] == [
        12,
        6,
        0,
    ]


def test_sizes_are_sampled_and_grow(session: OrmSession, root: Person, tmp_path: Path) -> None:

    folder = tmp_path
    (folder / "a").write_bytes(b"x" * 1234)
    for _ in range(2):
        storage_review.sample_storage(now() - timedelta(days=7), folder)
    session.execute(text("UPDATE storage_sample SET bytes = bytes - 5000000 WHERE name = 'message'"))
    session.commit()
    shown = root.browser.get("/admin/storage").text
    for words in (
        "1 file, counted",
        "1 kB",
        ">message<",
        "5.0 MB",
        "orgs.forget_deliveries",
        "On command",
    ):
        assert words in shown, words
    storage_review.sample_storage(now(), None)
    session.commit()
    sizes = {each.name: each for each in storage_review.table_sizes(now())}
    assert sizes["message"].growth == 5_000_000


def test_old_figures_are_deleted(session: OrmSession) -> None:
    for grain, days in (("minutes", 1), ("hour", 4), ("quarter", 16), ("quarter", 14)):
        session.add(
            ProviderRollup(
                grain=grain,
                bucket=now() - timedelta(days=days),
                provider="x",
                model="x",
                error="",
                calls=1,
                latency_hist=[0] * 16,
                latency_max=0,
                ttft_hist=[0] * 16,
                ttft_max=0,
                last_at=now(),
            )
        )
    session.commit()
    count(session)
    assert session.query(ProviderRollup).count() == 1


def test_pages_take_the_same_queries_whatever_they_list(
    app: Flask, session: OrmSession, root: Person, alice: Person, acme: Org
) -> None:
    with app.app_context():
        engine = db.engine
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        seen.append(statement)

    def counts() -> dict[str, int]:
        found = {}
        for path in PAGES:
            root.browser.get(path)
            seen.clear()
            event.listen(engine, "before_cursor_execute", note)
            assert root.browser.get(path).status_code == 200, path
            event.remove(engine, "before_cursor_execute", note)
            found[path] = len(seen)
        return found

    def fill(size: int) -> None:
        with factories.one_commit():
            user, org = session.get_one(User, alice.id), session.get_one(Org, org_id)
            for number in range(size):
                called(user, state="failed", error="upstream_timeout", http_status=504, model=f"m{number}")
                webhook, _ = add_webhook(org.id, f"https://example.org/{number}")
                webhook.disabled_at = now()
                enqueue_delivery(webhook, "alert", {}).state = "failed"
                factories.hold(user, state="lost", lost_at=now())
        session.execute(text("UPDATE procrastinate_jobs SET status = 'failed'"))
        session.execute(text("UPDATE provider_counting SET until = now() - interval '1 hour'"))
        session.execute(text("DELETE FROM provider_rollup"))
        session.commit()
        count(session)

    org_id = acme.id
    fill(1)
    few = counts()
    fill(4)
    assert counts() == few
    assert max(few.values()) <= 40
