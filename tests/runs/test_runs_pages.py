"""The pages of runs: access, content, pagination, polling and hostile text."""

import html
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from decimal import Decimal
from typing import Any
from unittest.mock import patch

import pytest
from flask import Flask
from sqlalchemy import event
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session as OrmSession
from werkzeug.test import TestResponse

from models.core.db import db
from models.core.pool import Pool
from models.gateway import GatewayCall
from models.ledger import CreditEntry
from models.runs import AgentRun
from tests import factories
from tests.factories import Person, now

pytestmark = pytest.mark.usefixtures("kind")

HTMX = {"HX-Request": "true"}
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{7*7}}"


def get(who: Person, path: str, **kw: Any) -> TestResponse:
    return who.browser.get(path, **kw)


def text_of(answer: TestResponse) -> str:
    """The visible text in one line."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", answer.text)).split())


def ended(session: OrmSession, who: Person, agent: str = "acme/reviewer@2.4.1", **kw: Any) -> AgentRun:
    times = {"created_at": now() - timedelta(minutes=5), "completed_at": now() - timedelta(minutes=4)}
    return factories.run(who.user, agent, **({"status": "completed"} | times | kw))


def billed(session: OrmSession, who: Person, run: AgentRun, credits: int = 7, **kw: Any) -> GatewayCall:
    """A settled call of the run with its message and its debit."""
    body = {key: kw.pop(key) for key in ("request", "response", "reasoning_text", "byok") if key in kw}
    message = factories.message(who.user, credits, client_request_id=run.id, **body)
    debit = CreditEntry(
        account_id=who.account_id,
        operation_id="free-1",
        kind="debit",
        amount=-credits,
        grant_balance_after=493 - credits,
        balance_after=1234,
        cause="call",
        message_id=message.id,
    )
    session.add(debit)
    session.commit()
    began = run.created_at + timedelta(seconds=2)
    defaults = {
        "message": message,
        "run_id": run.id,
        "started_at": began,
        "finished_at": began + timedelta(seconds=4),
        "latency_ms": 4000,
        "ttft_ms": 500,
        "uncached_input_tokens": 1000,
        "cache_read_tokens": 2000,
        "output_tokens": 300,
        "price": {"source": "test", "input": "3", "cache_write": "3.75", "cache_read": "0.3", "output": "15"},
        "micro_credits": credits * 1_000_000 - 1000,
    }
    return factories.call(who.user, **(defaults | kw))


@pytest.fixture
def queries(app: Flask) -> Iterator[Any]:
    """Collects the SQL statements of the application."""
    with app.app_context():
        engine: Engine = db.engine
    pool: Pool = app.extensions["gateway"].pool
    execute = pool.execute

    @contextmanager
    def counting() -> Iterator[list[str]]:
        seen: list[str] = []

        def note(_c: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
            seen.append(statement)

        def asked(query: str, *rest: Any, **options: Any) -> list[tuple[Any, ...]]:
            seen.append(query)
            return execute(query, *rest, **options)

        event.listen(engine, "before_cursor_execute", note)
        try:
            with patch.object(pool, "execute", asked):
                yield seen
        finally:
            event.remove(engine, "before_cursor_execute", note)

    return counting


# -- who may see ---------------------------------------------------------------------------------------------


def test_only_the_owner_sees_a_run(
    session: OrmSession, alice: Person, bob: Person, mallory: Person, anonymous: Person
) -> None:
    run = ended(session, alice)
    call = billed(session, alice, run)
    paths = [f"/runs/{run.id}", f"/runs/{run.id}/calls/{call.request_id}"]
    for path in paths:
        assert get(alice, path).status_code == 200
        for stranger in (bob, mallory):
            for headers in ({}, HTMX):
                answer = get(stranger, path, headers=headers)
                assert answer.status_code == 404
                assert "reviewer" not in answer.text
    for path in ["/runs", *paths, f"/runs/{run.id}/row"]:
        answer = get(anonymous, path)
        assert answer.status_code == 302
        assert answer.location.startswith("/login")
        fragment = get(anonymous, path, headers=HTMX)
        assert fragment.status_code == 401
        assert fragment.headers["HX-Redirect"].startswith("/login")
    assert "reviewer" not in get(mallory, "/runs").text


def test_a_call_belongs_to_its_run_and_its_person(
    session: OrmSession, alice: Person, mallory: Person
) -> None:
    run, other = ended(session, alice), ended(session, alice)
    call = billed(session, alice, run)
    hers = billed(session, mallory, run, model="evil-model")
    assert get(alice, f"/runs/{other.id}/calls/{call.request_id}").status_code == 404
    assert get(alice, f"/runs/{run.id}/calls/{hers.request_id}").status_code == 404
    assert "evil-model" not in get(alice, f"/runs/{run.id}").text


def test_a_spawned_run_of_a_stranger_is_never_shown(
    session: OrmSession, alice: Person, mallory: Person
) -> None:
    run = ended(session, alice)
    claim = ended(session, mallory, "evil/agent@6.6.6", parent=run)
    billed(session, mallory, claim, 999, model="evil-model")
    for path in (f"/runs/{run.id}", "/runs", "/runs?spawned=1"):
        answer = get(alice, path)
        assert "evil" not in answer.text
        assert claim.id not in answer.text
    assert "spawned by an unknown run" in text_of(get(mallory, f"/runs/{claim.id}"))
    assert run.id not in get(mallory, f"/runs/{claim.id}").text


@pytest.mark.parametrize("run_id", ["nope", "%00", "x%00", "%FF", "..%2f..", "x" * 4000, "é"])
def test_odd_addresses_are_404(session: OrmSession, alice: Person, run_id: str) -> None:
    run = ended(session, alice)
    for path in (f"/runs/{run_id}", f"/runs/{run_id}/calls/x", f"/runs/{run.id}/calls/{run_id}"):
        assert get(alice, path).status_code == 404


@pytest.mark.parametrize("path", ["/runs", "/runs/x", "/runs/x/row", "/runs/x/calls/y"])
def test_pages_are_only_read(alice: Person, path: str) -> None:
    for method in ("post", "put", "patch", "delete"):
        assert getattr(alice.browser, method)(path).status_code == 405


# -- the list ------------------------------------------------------------------------------------------------


def test_an_empty_list_says_the_next_step(alice: Person) -> None:
    answer = get(alice, "/runs")
    assert answer.status_code == 200
    assert "No runs yet" in answer.text
    assert f'href="{alice.home}/keys"' in answer.text or 'href="/profile?tab=api-keys"' in answer.text
    assert '<form class="finder"' not in answer.text


def test_the_list_shows_what_each_run_did_and_cost(session: OrmSession, alice: Person) -> None:
    run = ended(session, alice)
    billed(session, alice, run, 1234)
    factories.step(run, 1)
    failed = ended(session, alice, "local", status="failed", error_message="It broke")
    words = text_of(get(alice, "/runs"))
    for part in ("reviewer", "acme · 2.4.1", "Completed", "1 min", "1,234", "local", "Failed", "It broke"):
        assert part in words
    page = get(alice, "/runs").text
    assert page.index(failed.id) < page.index(run.id) or failed.created_at < run.created_at


def test_filters_narrow_the_list_and_say_so(session: OrmSession, alice: Person) -> None:
    ended(session, alice, "acme/reviewer@2.4.1", status="failed")
    ended(session, alice, "other-agent", created_at=now() - timedelta(days=20))
    both = text_of(get(alice, "/runs"))
    assert "reviewer" in both
    assert "other-agent" in both
    one = get(alice, "/runs?agent=review&status=failed&when=7d")
    assert "/runs/" in one.text
    main = one.text.split('id="runs"')[1]
    assert "reviewer" in main
    assert "other-agent" not in main
    for chip in ("Agent: review", "Failed", "Last 7 days"):
        assert f"Remove filter: {chip}" in main
    assert 'value="review"' in one.text
    assert re.search(r'value="failed" selected', one.text)
    day = (now() - timedelta(days=20)).date().isoformat()
    between = get(alice, f"/runs?when=custom&from={day}&to={day}").text.split('id="runs"')[1]
    assert "other-agent" in between
    assert "reviewer" not in between


def test_a_filter_that_fits_nothing_offers_to_clear_it(session: OrmSession, alice: Person) -> None:
    ended(session, alice)
    answer = get(alice, "/runs?status=cancelled")
    assert "No matching runs" in answer.text
    assert "Clear filters" in answer.text
    assert "spawned=1" in answer.text


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("status=paused", "Choose a status from the list"),
        ("when=yesterday", "Choose a time range from the list"),
        ("when=custom&from=2026-99-01", "Enter a date like 2026-11-20"),
        ("when=custom&from=99999-01-01", "Enter a date like 2026-11-20"),
        ("when=custom&to=0001-01-01", "Enter a date like 2026-11-20"),
        ("when=custom&from=2026-11-20&to=2026-11-19", "Enter a date on or after the start date"),
        ("agent=" + "x" * 201, "Enter at most 200 characters"),
    ],
)
def test_filters_that_cannot_be_are_422_with_the_field_named(
    session: OrmSession, alice: Person, query: str, message: str
) -> None:
    ended(session, alice)
    for headers in ({}, HTMX):
        answer = get(alice, f"/runs?{query}", headers=headers)
        assert answer.status_code == 422
        assert message in answer.text
    assert 'aria-invalid="true"' in get(alice, f"/runs?{query}").text


@pytest.mark.parametrize("query", ["after=x", "after=%00", "after=" + "A" * 9000])
def test_a_broken_link_into_the_list_is_400(session: OrmSession, alice: Person, query: str) -> None:
    ended(session, alice)
    assert get(alice, f"/runs?{query}").status_code == 400


@pytest.mark.parametrize(
    "query", ["agent=%00&status=", "agent=%25", "from=nonsense", "when=&from=9", "spawned=%F0%9F"]
)
def test_odd_filters_are_harmless(session: OrmSession, alice: Person, query: str) -> None:
    ended(session, alice)
    assert get(alice, f"/runs?{query}").status_code == 200


def test_load_more_is_a_real_link_and_a_fragment(session: OrmSession, alice: Person) -> None:
    for number in range(30):
        ended(session, alice, f"agent-{number:02}", created_at=now() - timedelta(hours=number + 1))
    first = get(alice, "/runs")
    assert "agent-24" in first.text
    assert "agent-25" not in first.text.split('id="runs"')[1]
    link = re.search(rf'<a class="btn" href="({alice.home}/runs\?after=[^"]+)"', first.text)
    assert link
    href = html.unescape(link[1])
    second = get(alice, href)
    assert "<h1>Runs</h1>" in second.text
    assert "Back to the newest" in second.text
    rows = second.text.split('id="runs"')[1]
    assert "agent-24" not in rows
    assert all(f"agent-{number}" in rows for number in range(25, 30))
    more = get(alice, href, headers=HTMX)
    assert '<tbody hx-swap-oob="beforeend:#run-rows">' in more.text
    assert "agent-25" in more.text
    assert "<html" not in more.text
    assert "HX-Push-Url" not in more.headers
    assert "HX-Request" in more.headers["Vary"]


def test_an_active_filter_answers_the_list_alone_and_names_a_clean_address(
    session: OrmSession, alice: Person
) -> None:
    ended(session, alice)
    answer = get(alice, "/runs?agent=rev&status=&when=&from=&to=", headers=HTMX)
    assert answer.text.lstrip().startswith('<section id="runs"')
    assert answer.headers["HX-Push-Url"] == f"{alice.home}/runs?agent=rev"
    boosted = get(alice, "/runs", headers=HTMX | {"HX-Boosted": "true"})
    assert "<html" in boosted.text


def test_a_list_takes_the_same_queries_whatever_it_holds(
    session: OrmSession, alice: Person, queries: Any
) -> None:
    def count() -> int:
        with queries() as seen:
            assert get(alice, "/runs").status_code == 200
        return len(seen)

    run = ended(session, alice)
    billed(session, alice, run)
    count()  # the first request also updates last_used_at of the session
    few = count()
    for _ in range(20):
        run = ended(session, alice)
        billed(session, alice, run)
        ended(session, alice, parent=run)
    assert count() == few <= (12 if alice.home else 11)


def test_a_run_takes_the_same_queries_whatever_it_holds(
    session: OrmSession, alice: Person, queries: Any
) -> None:
    def count(run: AgentRun) -> int:
        with queries() as seen:
            assert get(alice, f"/runs/{run.id}").status_code == 200
        return len(seen)

    small, big = ended(session, alice), ended(session, alice)
    for run, size in ((small, 1), (big, 12)):
        for number in range(size):
            billed(session, alice, run)
            child = ended(session, alice, parent=run)
            billed(session, alice, child)
            factories.step(run, number + 1)
    count(big)
    assert count(big) == count(small) <= (21 if alice.home else 20)


# -- live ----------------------------------------------------------------------------------------------------


def test_a_running_row_and_page_ask_again_and_stop_when_the_run_ends(
    session: OrmSession, alice: Person
) -> None:
    run = factories.run(alice.user, "busy")
    polls = f'hx-get="{alice.home}/runs/{run.id}/row" hx-trigger="every 4s"'
    assert polls in get(alice, "/runs").text
    row = get(alice, f"/runs/{run.id}/row", headers=HTMX)
    assert polls in row.text
    assert row.text.lstrip().startswith("<tr")
    page = get(alice, f"/runs/{run.id}")
    assert re.search(
        rf'id="run" hx-get="{alice.home}/runs/{run.id}\?at=end" hx-trigger="every 3s"', page.text
    )
    run = session.get(AgentRun, run.id)
    run.status, run.completed_at = "completed", now()
    session.commit()
    assert "every" not in get(alice, f"/runs/{run.id}/row", headers=HTMX).text
    fragment = get(alice, f"/runs/{run.id}?at=end", headers=HTMX | {"HX-Target": "run"})
    assert fragment.text.lstrip().startswith('<div id="run">')
    assert "every" not in fragment.text
    assert "<html" not in fragment.text


def test_a_row_that_is_gone_stops_asking(session: OrmSession, alice: Person, mallory: Person) -> None:
    run = factories.run(alice.user)
    for run_id in (run.id, "nope"):
        answer = get(mallory, f"/runs/{run_id}/row", headers=HTMX)
        assert (answer.status_code, answer.text) == (286, "")
    plain = get(alice, f"/runs/{run.id}/row")
    assert (plain.status_code, plain.location) == (303, f"{alice.home}/runs/{run.id}")


def test_a_silent_run_is_not_called_running(session: OrmSession, alice: Person) -> None:
    run = factories.run(alice.user, "quiet", created_at=now() - timedelta(days=2))
    for path in ("/runs", f"/runs/{run.id}"):
        answer = get(alice, path)
        words = text_of(answer).split("Any status")[-1] if path == "/runs" else text_of(answer)
        assert ("No activity since" if path != "/runs" else "No activity") in words
        assert "every" not in answer.text.split("<main")[1].replace("every run", "")
    assert "The client did not report the end of this run" in text_of(get(alice, f"/runs/{run.id}"))


# -- the run -------------------------------------------------------------------------------------------------


def test_a_run_shows_what_the_ledger_billed_and_what_the_client_claims(
    session: OrmSession, alice: Person
) -> None:
    run = ended(session, alice, total_credits=Decimal("3.5"), direct_credits=Decimal("3.5"), total_steps=4)
    child = ended(session, alice, "helper", parent=run)
    billed(session, alice, run, 10)
    billed(session, alice, child, 2)
    factories.step(run, 1)
    words = text_of(get(alice, f"/runs/{run.id}"))
    assert "Credits 12 10 own, 2 spawned; client reported 3.50" in words
    assert "Cost $0.1200" in words
    assert "Tokens 6,600" in words
    assert "Steps 1 2 model calls; client reported 4" in words
    assert "Spawned 1 run" in words
    assert "Credits including spawned runs 12 3.50 8.50 less" in words
    assert "Credits of the run’s own calls 10 3.50 6.50 less" in words
    assert "Steps 1 4 3 more" in words
    agreed = ended(session, alice, total_credits=Decimal(5), direct_credits=Decimal(5), total_steps=0)
    billed(session, alice, agreed, 5)
    words = text_of(get(alice, f"/runs/{agreed.id}"))
    assert "client reported" not in words
    assert "Credits including spawned runs 5 5 the same" in words
    going_on = factories.run(alice.user)
    assert "Billed and reported" not in text_of(get(alice, f"/runs/{going_on.id}"))


def test_a_failed_run_says_why(session: OrmSession, alice: Person) -> None:
    run = ended(session, alice, status="failed", error_message="No disk\nleft")
    factories.call(alice.user, run_id=run.id, state="failed", error="timed out", credits=0)
    words = text_of(get(alice, f"/runs/{run.id}"))
    assert "The run failed. No disk left" in words
    assert "A call of stoa/demo failed with 200. timed out Failed calls are not charged." in words
    assert words.count("Open the failing call") == 1
    assert "Model call, failed: stoa/demo timed out" in words
    unsaid = ended(session, alice, status="failed")
    assert "The client gave no reason" in text_of(get(alice, f"/runs/{unsaid.id}"))


def test_the_path_and_the_head_lead_to_the_parent(session: OrmSession, alice: Person) -> None:
    run = ended(session, alice, "acme/boss@1.0.0")
    child = ended(session, alice, "acme/helper@1.0.0", parent=run)
    page = get(alice, f"/runs/{child.id}").text
    assert f'<li><a href="{alice.home}/runs/{run.id}">boss</a></li>' in page
    assert f'spawned by <a href="{alice.home}/runs/{run.id}">boss</a>' in page
    assert f'href="{alice.home}/runs/{child.id}"' in get(alice, f"/runs/{run.id}").text


def test_an_empty_run_says_so(session: OrmSession, alice: Person) -> None:
    run = ended(session, alice, "")
    words = text_of(get(alice, f"/runs/{run.id}"))
    assert "unnamed agent" in words
    assert "No steps or model calls were recorded for this run." in words
    assert "No model calls." in words


def test_a_long_run_has_links_to_its_later_and_earlier_part(
    session: OrmSession, alice: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    from models.runs import trace

    monkeypatch.setattr(trace, "WINDOW", 3)
    run = ended(session, alice)
    for number in range(5):
        factories.step(run, number, created_at=run.created_at + timedelta(seconds=number))
    first = get(alice, f"/runs/{run.id}")
    later = re.search(r'<a href="([^"]+)">Show later</a>', first.text)
    assert later
    assert "Step 2" in first.text
    assert "Step 3" not in first.text
    second = get(alice, later[1])
    assert "Step 3" in second.text
    assert "Step 2" not in second.text
    earlier = re.search(r'<a href="([^"]+)">Show earlier</a>', second.text)
    assert earlier
    assert "Step 2" in get(alice, earlier[1]).text
    assert "Step 4" in get(alice, f"/runs/{run.id}?at=end").text
    assert get(alice, f"/runs/{run.id}?after=nonsense").status_code == 400
    assert get(alice, f"/runs/{run.id}?at=nonsense").status_code == 200


# -- the call ------------------------------------------------------------------------------------------------


def test_a_call_opens_with_tokens_prices_ledger_times_and_messages(
    session: OrmSession, alice: Person
) -> None:
    run = ended(session, alice)
    call = billed(
        session,
        alice,
        run,
        request=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}],
        response="Because.",
        reasoning_text="Think first.",
    )
    page = get(alice, f"/runs/{run.id}/calls/{call.request_id}")
    words = text_of(page)
    assert "<h1" in page.text
    for part in (
        "stoa/demo",
        "reported by the provider",
        "Input 1,000 $3.00 $0.0030",
        "Input, read from cache 2,000 $0.3000 $0.0006",
        "Output 300 $15.00 $0.0045",
        "Cost 3,300 $0.0700",
        "Charged 7 credits",
        "Settled",
        "balance 1,234",
        "−7",
        "Duration 4.0 s",
        "Time to first token 500 ms",
        "System Be brief.",
        "User Why?",
        "Think first.",
        "Because.",
        call.request_id,
    ):
        assert part in words, part
    fragment = get(alice, f"/runs/{run.id}/calls/{call.request_id}", headers=HTMX)
    assert "<html" not in fragment.text
    assert "<h1" not in fragment.text
    assert 'tabindex="-1" autofocus' in fragment.text
    assert "autofocus" not in page.text.split("<main")[1]


def test_what_is_no_text_stands_apart_with_its_price(session: OrmSession, alice: Person) -> None:
    run = ended(session, alice)
    call = billed(
        session,
        alice,
        run,
        price={
            "source": "genai-prices:openai/gpt-audio",
            "input": "2.5",
            "cache_read": "2.5",
            "output": "10",
            "audio_input": "32",
            "audio_output": "64",
            "web_searches": "0.01",
        },
        parts={"audio_input": 800, "audio_output": 100, "web_searches": 2},
    )
    words = text_of(get(alice, f"/runs/{run.id}/calls/{call.request_id}"))
    for part in (
        "Input 200 $2.50 $0.0005",
        "Output 200 $10.00 $0.0020",
        "Audio input 800 $32.00 $0.0256",
        "Audio output 100 $64.00 $0.0064",
        "Web searches 2 $0.0100 each $0.0200",
        "Cost 3,300 $0.0700",
    ):
        assert part in words, part


def test_a_failed_call_and_one_without_bodies_say_so(session: OrmSession, alice: Person) -> None:
    run = ended(session, alice)
    failed = factories.call(
        alice.user, run_id=run.id, state="failed", http_status=502, error="Bad gateway", usage_source=None
    )  # fmt: skip
    words = text_of(get(alice, f"/runs/{run.id}/calls/{failed.request_id}"))
    assert "The call failed Bad gateway Nothing was charged. Send the call again. HTTP 502" in words
    assert "No ledger entries: a failed call is not charged." in words
    assert "The messages of this call were not stored." in words
    bare = billed(session, alice, run, request=None, response="Kept", price=None)
    words = text_of(get(alice, f"/runs/{run.id}/calls/{bare.request_id}"))
    assert "The request’s messages were not stored." in words
    assert "Kept" in words
    assert "The provider reported the cost of this call." in words
    lost = factories.call(alice.user, run_id=run.id)
    assert "The messages of this call were not stored." in text_of(
        get(alice, f"/runs/{run.id}/calls/{lost.request_id}")
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"usage_source": "estimated"}, "estimated"),
        ({"usage_source": "counted"}, "counted locally"),
        ({"client_gone": True}, "The client disconnected early."),
        ({"error": "stream cut"}, "The response ended early stream cut What had arrived was charged."),
        ({"credits": 0, "micro_credits": 310_000}, "Less than half a credit (0.310000)"),
        ({"credits": 1, "carry_credits": 1, "micro_credits": 310_000}, "charged with this call"),
        ({"byok": True, "credits": 9, "cost": Decimal("0.0081")}, "Charged 0 credits Your own provider key paid"),
        ({"cost": Decimal("0.0081"), "micro_credits": 854_550}, "Exactly 0.8546 credits with the margin"),
        ({"cost": Decimal("0.0081"), "micro_credits": 854_550}, "In credits, 1 per cent 0.810000 Margin of 5.5% 0.044550 Exact credits 0.854550 Charged 1 credit"),
        ({"cost": Decimal("0.000000000001"), "micro_credits": 1, "credits": 0}, "Exact credits 0.000001 Charged 0 credits"),
        ({"price": {"source": "genai-prices:lab/model-1", "input": "3"}}, "Prices genai-prices:lab/model-1"),
        ({"requested_model": "openrouter/auto"}, "Requested model openrouter/auto"),
        ({"price": {"input": "3", "output": "15", "reasoning": "60"}, "reasoning_tokens": 100}, "Reasoning 100 $60.00"),
    ],
)  # fmt: skip
def test_what_is_special_about_a_call_is_said(
    session: OrmSession, alice: Person, change: dict[str, Any], words: str
) -> None:
    run = ended(session, alice)
    call = billed(session, alice, run, **({"credits": 1} | change))
    assert words in text_of(get(alice, f"/runs/{run.id}/calls/{call.request_id}"))


def test_the_key_of_a_call_goes_by_its_name_only(session: OrmSession, alice: Person) -> None:
    from sqlalchemy import select

    from models.accounts import Session

    run = ended(session, alice)
    row = session.scalars(select(Session).where(Session.user_id == alice.id, Session.type == "pat")).one()
    row.name = "laptop"
    session.commit()
    call = billed(session, alice, run, key_id=row.session_token)
    page = get(alice, f"/runs/{run.id}/calls/{call.request_id}").text
    assert "laptop" in page
    assert row.session_token not in page
    gone = billed(session, alice, run, key_id="0" * 64)
    assert "a deleted key" in get(alice, f"/runs/{run.id}/calls/{gone.request_id}").text


def test_many_messages_are_read_in_part(session: OrmSession, alice: Person) -> None:
    run = ended(session, alice)
    request = [{"role": "user", "content": f"message {number}."} for number in range(100)]
    call = billed(session, alice, run, request=request)
    path = f"/runs/{run.id}/calls/{call.request_id}"
    part = get(alice, path).text
    assert "40 earlier messages are not shown." in part
    assert "message 39." not in part
    assert "message 40." in part
    every = get(alice, f"{path}?messages=all").text
    assert "message 0." in every
    assert "earlier messages" not in every


@pytest.mark.parametrize("request_body", [{"odd": 1}, "text", 5, [], [1, None], {"messages": []}])
def test_odd_bodies_are_shown_all_the_same(session: OrmSession, alice: Person, request_body: Any) -> None:
    run = ended(session, alice)
    call = billed(session, alice, run, request=request_body, response={"a": [None]})
    assert get(alice, f"/runs/{run.id}/calls/{call.request_id}").status_code == 200


def test_calls_of_a_run_lead_to_their_neighbours(session: OrmSession, alice: Person) -> None:
    run = ended(session, alice)
    calls = [
        billed(session, alice, run, started_at=run.created_at + timedelta(seconds=number))
        for number in range(3)
    ]
    middle = get(alice, f"/runs/{run.id}/calls/{calls[1].request_id}").text
    for text, other in (("Previous call", calls[0]), ("Next call", calls[2])):
        href = re.escape(f"{alice.home}/calls/{other.request_id}")
        assert re.search(rf'href="{href}" data-panel-link="">{text}', middle)
    assert "Previous call" not in get(alice, f"/runs/{run.id}/calls/{calls[0].request_id}").text


# -- hostile text --------------------------------------------------------------------------------------------


def test_text_of_clients_is_never_markup(session: OrmSession, alice: Person) -> None:
    run = ended(session, alice, f"{HOSTILE}", status="failed", error_message=HOSTILE)
    child = ended(session, alice, f"x/{HOSTILE}@1", ancestor_run_ids=[run.id, HOSTILE])
    factories.step(run, 1, error_message=HOSTILE, message_id=HOSTILE, child_run_ids=[HOSTILE, child.id])
    call = billed(
        session,
        alice,
        run,
        model=HOSTILE,
        requested_model=HOSTILE,
        provider=HOSTILE,
        error=HOSTILE,
        request=[
            {"role": HOSTILE, "name": HOSTILE, "content": HOSTILE},
            {"role": "assistant", "tool_calls": [{"function": {"name": HOSTILE, "arguments": HOSTILE}}]},
            {"role": "user", "content": [{"type": HOSTILE, "text": HOSTILE}, {"type": "file", "x": HOSTILE}]},
        ],
        response=HOSTILE,
        reasoning_text=HOSTILE,
    )
    for path in (
        "/runs",
        f"/runs?agent={HOSTILE}",
        f"/runs/{run.id}",
        f"/runs/{child.id}",
        f"/runs/{run.id}/calls/{call.request_id}",
    ):
        for headers in ({}, HTMX):
            page = get(alice, path, headers=headers)
            assert page.status_code == 200, path
            assert "<script>alert" not in page.text
            assert "<img src=x" not in page.text
            assert "{{7*7}}" in page.text
            assert 'style="' not in page.text
