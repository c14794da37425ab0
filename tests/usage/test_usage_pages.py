"""The usage page: access, content, query parameters, number of queries."""

import csv
import html
import io
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from flask import Flask
from sqlalchemy import event
from sqlalchemy.orm import Session

from models.accounts import User
from models.accounts.credentials import hash_token
from models.core.db import db
from models.ledger import charge
from tests import factories
from tests.factories import Person
from tests.usage.billed_calls import Call, insert_calls

HTMX = {"HX-Request": "true"}


def today(hours: float = 0) -> datetime:
    return datetime.now(UTC) - timedelta(hours=hours)


@contextmanager
def recorded_statements(app: Flask) -> Iterator[list[str]]:
    """Record the SQL statements of the application."""
    statements: list[str] = []

    def note(conn: object, cursor: object, statement: str, *rest: object) -> None:
        statements.append(statement)

    with app.app_context():
        engine = db.engine
    event.listen(engine, "after_cursor_execute", note)
    yield statements
    event.remove(engine, "after_cursor_execute", note)


# -- access ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/profile", "/profile?tab=usage&range=7d", "/profile/usage.csv?range=24h"])
def test_anonymous_users_are_sent_to_sign_in_and_back(anonymous: Person, path: str) -> None:
    answer = anonymous.browser.get(path)
    assert answer.status_code == 302
    assert answer.location.startswith("/login?next=")
    fragment = anonymous.browser.get(path, headers=HTMX)
    assert fragment.status_code == 401
    assert fragment.headers["HX-Redirect"].startswith("/login")


def test_a_key_opens_no_page(alice: Person, anonymous: Person) -> None:
    assert anonymous.browser.get("/profile", headers=alice.headers).status_code == 302


def test_everybody_sees_only_their_own(session: Session, alice: Person, mallory: Person) -> None:
    assert alice.user is not None
    insert_calls(session, alice.id, [Call(at=today(1), model="secret/model", credits=71)])
    session.commit()
    factories.grant(alice.user, 8123, "admin", description="For alice alone")
    for path in ("/profile", "/profile/usage.csv"):
        theirs = mallory.browser.get(path).text
        assert "secret/model" not in theirs
        assert "8,123" not in theirs
        assert "For alice alone" not in theirs
    assert "secret/model" in alice.browser.get("/profile").text


@pytest.mark.parametrize("method", ["post", "put", "delete"])
def test_pages_only_read(alice: Person, method: str) -> None:
    for path in ("/profile", "/profile/usage.csv"):
        assert getattr(alice.browser, method)(path).status_code in (400, 405)


def test_an_unknown_tab_is_not_found(alice: Person) -> None:
    assert alice.browser.get("/profile?tab=nothing").status_code == 404


# -- content -----------------------------------------------------------------------------------------------------


def test_a_new_account_is_shown_the_next_step(alice: Person) -> None:
    page = alice.browser.get("/profile").text
    assert "No calls yet" in page
    assert 'href="/profile?tab=api-keys"' in page
    assert "http://localhost:8000/v1/chat/completions" in page
    assert 'id="used"' not in page


def test_an_account_without_recent_usage_keeps_the_chart(session: Session, alice: Person) -> None:
    insert_calls(session, alice.id, [Call(at=today(24 * 90))])
    session.commit()
    page = alice.browser.get("/profile").text
    assert "No billed calls in this period" in page
    assert "No calls yet" not in page


def test_balance_by_kind_in_spending_order(session: Session, alice: Person) -> None:
    assert alice.user is not None
    ends = today(-24 * 11)
    factories.grant(alice.user, 6000, "purchase", balance=3850)
    factories.grant(alice.user, 400, "admin", expires_at=today(-24 * 60))
    factories.grant(alice.user, 500, "free", balance=312, expires_at=ends)
    factories.grant(alice.user, 90, "admin", expires_at=today(1), balance=90)
    for amount in (30, 11):
        factories.hold(alice.user, amount)
    factories.hold(alice.user, 999, state="lost")
    factories.hold(alice.user, 999, expires_at=today(0.01))

    page = alice.browser.get("/profile").text

    table = page[page.index('aria-label="Balance by kind"') :]
    kinds = re.findall(r'scope="row">.*?</svg>([^<]+)</span>', table[: table.index("<tfoot")])
    assert kinds == ["Monthly free", "Granted by operator", "Purchased"]
    cells = re.findall(r'data-label="(Granted|Spent|Held|Available)">([^<]+)<', table)
    assert [text for _, text in cells[:4]] == ["500", "188", "41", "271"]
    assert [text for _, text in cells[4:8]] == ["400", "0", "0", "400"]
    assert [text for _, text in cells[8:12]] == ["6,000", "2,150", "0", "3,850"]
    assert [text for _, text in cells[12:16]] == ["6,900", "2,338", "41", "4,521"]
    assert "4,521 <small>credits available" in page
    assert "41 held" in page
    assert "2 calls in progress" in page
    assert f"{ends:%-d %b %Y}" in table


def test_debt_is_shown(session: Session, alice: Person) -> None:
    assert alice.user is not None
    factories.grant(alice.user, 100, "purchase", balance=-40)
    page = alice.browser.get("/profile").text
    assert "You owe 40 credits" in page
    assert "−40 <small>credits available" in page
    foot = page[page.index("<tfoot") :]
    assert re.findall(r'data-label="(?:Granted|Spent|Available)">([^<]+)<', foot)[:3] == ["100", "140", "−40"]


def test_holds_beyond_the_balance_are_shown(session: Session, alice: Person) -> None:
    assert alice.user is not None
    factories.grant(alice.user, 10, "free")
    factories.hold(alice.user, 35)
    page = alice.browser.get("/profile").text
    assert "Held above the balance" in page
    assert "−25 <small>credits available" in page


def test_this_cycle_and_its_end(session: Session, alice: Person) -> None:
    ends = today(-24 * 10)
    session.get_one(User, alice.id).next_quota_reset = ends
    session.get_one(User, alice.id).created_at = today(24 * 100)
    session.commit()
    charge(alice.account, 7, cause="x")
    insert_calls(session, alice.id, [Call(at=today(24), credits=30), Call(at=today(24 * 40), credits=500)])
    session.commit()
    page = alice.browser.get("/profile").text
    assert "37 credits used" in page
    assert f'Next cycle starts on <time datetime="{ends:%Y-%m-%d}' in page


def test_the_latest_calls_lead_to_their_pages(session: Session, alice: Person, mallory: Person) -> None:
    assert alice.user is not None
    run = factories.run(alice.user)
    tied = factories.call(alice.user, run_id=run.id, model="m/tied")
    alone = factories.call(alice.user, model="m/alone")
    failed = factories.call(alice.user, state="failed", model=None, requested_model="m/broken", error="x")
    session.commit()
    page = alice.browser.get("/profile").text
    assert f'href="/calls/{tied.request_id}"' in page
    assert f'href="/calls/{alone.request_id}"' in page
    assert f'href="/calls/{failed.request_id}"' in page
    assert "Failed" in page
    assert "m/alone" not in mallory.browser.get("/profile").text


def test_names_are_escaped(session: Session, alice: Person) -> None:
    name = "<script>alert(1)</script>\"'&"
    insert_calls(session, alice.id, [Call(at=today(), model=name, agent=name)])
    session.commit()
    for by in ("model", "agent"):
        page = alice.browser.get(f"/profile?by={by}").text
        assert "<script>alert" not in page
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_each_metric_has_its_chart(session: Session, alice: Person) -> None:
    calls = [Call(at=today(n), latency_ms=900, cache_read=50, reasoning=20) for n in range(5)]
    insert_calls(session, alice.id, calls)
    session.commit()
    totals = {"credits": "25", "calls": "5", "tokens": "6,250", "latency": "825 ms", "errors": "0"}
    totals["error_rate"] = "0.0%"
    for show, total in totals.items():
        for period in ("24h", "7d", "30d"):
            page = alice.browser.get(f"/profile?show={show}&range={period}").text
            assert f'class="chart__total">{total} <small>' in page, show
            assert re.search(
                rf'href="[^"]*range={period}[^"]*"[^>]*aria-current="true"|aria-current="true"[^>]*range={period}',
                page,
            )


def test_every_group_of_every_metric_shows_its_groups_in_the_same_colours(
    session: Session, alice: Person
) -> None:
    calls = [
        Call(at=today(n * 9), agent=f"acme/a{n % 3}@1.0.0", error="" if n % 4 else "x") for n in range(24)
    ]
    insert_calls(session, alice.id, calls)
    session.commit()
    legends = set()
    for show in ("credits", "calls", "tokens", "latency"):
        page = alice.browser.get(f"/profile?show={show}&by=agent").text
        legend = page[page.index('<ul class="legend"') :]
        entries = re.findall(
            r'class="s(\d)"[^>]*/></svg><span class="clip">([^<]+)<', legend[: legend.index("</ul>")]
        )
        assert len(entries) == 3, show
        legends.add(frozenset(entries))
        table = page[page.index('aria-label="Usage by agent"') :]
        for colour, name in entries:
            assert re.search(rf'class="s{colour}"[^>]*/></svg><a[^>]*>{name}<', table)
    assert len(legends) == 1


@pytest.fixture
def spent(session: Session, alice: Person) -> str:
    """Alice's calls with and without a key, failed ones too, now and in the period before; the key's id."""
    assert alice.user is not None
    key = hash_token(factories.token(alice.user, name="laptop"))
    calls = [
        Call(at=today(), model="m/a", credits=30, key_id=key),
        Call(at=today(1), model="m/b", credits=10, agent="acme/fixer@1.0.0"),
        Call(at=today(2), model="m/a", key_id=key, error="upstream_timeout"),
        Call(at=today(24 * 35), model="m/a", credits=20, key_id=key),
    ]
    insert_calls(session, alice.id, calls)
    session.commit()
    return key


@pytest.mark.parametrize(
    ("query", "credits", "chips"),
    [
        ("", 40, []),
        ("&key={key}", 30, ["Key: laptop"]),
        ("&key=", 10, ["Key: No key"]),
        ("&model=m/a&key={key}", 30, ["Model: m/a", "Key: laptop"]),
        ("&model=m/b&key={key}", 0, ["Model: m/b", "Key: laptop"]),
        ("&agent=acme/fixer@1.0.0", 10, ["Agent: acme/fixer@1.0.0"]),
        ("&error=upstream_timeout", 0, ["Status: Upstream timeout"]),
        ("&error=", 40, ["Status: Succeeded"]),
        ("&state=failed", 0, ["Calls: Failed"]),
        ("&state=lost", 40, []),
        ("&by=run&key={key}", 30, ["Key: laptop"]),
        ("&model=%00&key=" + "x" * 9000, 0, ["Model: Unknown", "Key: Deleted key"]),
    ],
)
def test_filters_narrow_page_and_export_and_can_be_removed(
    alice: Person, spent: str, query: str, credits: int, chips: list[str]
) -> None:
    query = query.replace("{key}", spent)
    for by in ("model", "agent", "key", "error"):
        page = alice.browser.get(f"/profile?tab=usage&by={by}{query}").text
        assert re.search(rf'class="chart__total">{credits} <small>', page), by
    shown = re.findall(r'aria-label="Remove filter: ([^"]+)"', page)
    assert shown == chips
    for href in re.findall(r'class="chip" href="([^"]+)"', page):
        assert alice.browser.get(html.unescape(href)).text.count('class="chip"') == len(chips) - 1
    answer = alice.browser.get(f"/profile/usage.csv?range=30d{query}")
    assert sum(int(row["credits"]) for row in csv.DictReader(io.StringIO(answer.text))) == credits
    answer = alice.browser.get(f"/profile/usage.csv?range=30d&format=json{query}")
    assert sum(Decimal(str(row["exact_credits"])) for row in json.loads(answer.text)) == credits


def test_a_row_a_legend_entry_and_a_column_filter(alice: Person, spent: str) -> None:
    page = alice.browser.get("/profile?tab=usage&by=model").text
    for href in set(re.findall(r'class="legend__link" href="([^"]+)"', page)):
        assert href in page[page.index('aria-label="Usage by model"') :]
        assert re.search(r"model=m/[ab]", alice.browser.get(html.unescape(href)).request.url)
    columns = re.findall(r'<a href="([^"]+)" tabindex="-1"', page)
    assert len(columns) == 30
    day = alice.browser.get(html.unescape(columns[-1])).text
    assert 'data-plot="24"' in day


def test_figures_say_their_change_since_the_period_before(alice: Person, spent: str) -> None:
    page = alice.browser.get("/profile?tab=usage").text
    links = re.findall(r'<a class="stat figure" id="show-(\w+)"(.*?)</a>', page, re.DOTALL)
    figures = {name: re.findall(r'title="([^"]+)"', link) for name, link in links}
    assert figures == {
        "credits": ["20 before"],
        "calls": ["1 before"],
        "tokens": ["1,200 before"],
        "latency": ["1.2 s before"],
        "errors": [],
        "error_rate": ["0.0% before"],
    }
    assert "+100%" in page
    assert "Period before" in page


def test_the_key_of_another_has_no_name(alice: Person, mallory: Person, session: Session) -> None:
    assert mallory.user is not None
    key = hash_token(factories.token(mallory.user, name="secret laptop"))
    insert_calls(session, alice.id, [Call(at=today())])
    session.commit()
    page = alice.browser.get(f"/profile?tab=usage&key={key}").text
    assert re.findall(r'aria-label="Remove filter: ([^"]+)"', page) == ["Key: Deleted key"]
    assert "secret laptop" not in page


def test_other_lists_every_one(session: Session, alice: Person) -> None:
    insert_calls(session, alice.id, [Call(at=today(), model=f"m{n:02}", credits=30 - n) for n in range(30)])
    session.commit()
    page = alice.browser.get("/profile?tab=usage").text
    assert "m07" not in page
    more = re.search(r'<a href="([^"]+top=all[^"]*)"', page)
    assert more is not None
    page = alice.browser.get(html.unescape(more[1])).text
    assert all(f">m{n:02}<" in page for n in range(30))
    legend = page[page.index('<ul class="legend"') :]
    assert legend[: legend.index("</ul>")].count("<li>") == 8


# -- query parameters ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("range=custom&from=2026-02-10&to=2026-02-01", "10 Feb 2026 or a later day"),
        ("range=custom&from=abc&to=2026-02-01", "YYYY-MM-DD"),
        ("range=custom&from=9999-12-31&to=9999-12-31", "up to today"),
        ("range=custom", "Enter a day"),
        ("range=custom&from=2020-01-01&to=2024-01-01", "at most 366 days"),
        ("range=1y", "Choose 24h, 7d, 30d"),
        ("range=%00", "Choose 24h, 7d, 30d"),
    ],
)
def test_an_invalid_range_is_explained(session: Session, alice: Person, query: str, message: str) -> None:
    insert_calls(session, alice.id, [Call(at=today())])
    session.commit()
    for headers in ({}, HTMX):
        answer = alice.browser.get(f"/profile?tab=usage&{query}", headers=headers)
        assert answer.status_code == 422
        assert message in answer.text
        assert ("<html" in answer.text) is not bool(headers)
    given = re.search(r"from=([^&]*)", query)
    if given:
        assert f'value="{given[1]}"' in answer.text
        assert 'aria-invalid="true"' in answer.text
    export = alice.browser.get(f"/profile/usage.csv?{query}")
    assert export.status_code == 422
    assert "text/html" in export.content_type


def test_an_invalid_date_is_kept_and_escaped(alice: Person) -> None:
    page = alice.browser.get("/profile?range=custom&from=%22%3E%3Cscript%3E&to=x").text
    assert "<script>" not in page.replace('<script src="', "")
    assert "&#34;&gt;&lt;script&gt;" in page


def test_unknown_choices_fall_back(session: Session, alice: Person) -> None:
    insert_calls(session, alice.id, [Call(at=today())])
    session.commit()
    answer = alice.browser.get("/profile?by=cost&show=everything")
    assert answer.status_code == 200
    assert "By model" in answer.text


def test_htmx_gets_the_fragment_alone(app: Flask, session: Session, alice: Person) -> None:
    insert_calls(session, alice.id, [Call(at=today())])
    session.commit()
    address = "/profile?tab=usage&range=7d&by=agent&show=calls"
    fragment = alice.browser.get(address, headers=HTMX)
    page = alice.browser.get(address)
    assert fragment.text.strip().startswith('<div class="stack stack--wide" id="spending">')
    assert "<html" not in fragment.text
    assert "HX-Request" in fragment.headers["Vary"]
    assert "HX-Request" in page.headers["Vary"]
    for headers in ({"HX-Boosted": "true"}, {"HX-History-Restore-Request": "true"}):
        assert "<html" in alice.browser.get(address, headers=HTMX | headers).text
    assert 'hx-push-url="true"' in fragment.text
    links = re.findall(r'<a id="[^"]+" href="([^"]+)"', fragment.text)
    assert len(links) == 4
    links += re.findall(r'<a class="stat figure" id="[^"]+" href="([^"]+)"', fragment.text)
    assert len(links) == 10
    for link in links:
        assert alice.browser.get(link.replace("&amp;", "&")).status_code == 200


def test_two_dates_are_a_range(session: Session, alice: Person) -> None:
    day = today().replace(hour=12)
    days = [day - timedelta(days=n) for n in (1, 2, 3, 4)]
    insert_calls(session, alice.id, [Call(at=at, credits=10**n) for n, at in enumerate(days)])
    session.commit()
    first, last = days[2].date(), days[1].date()
    page = alice.browser.get(f"/profile?range=custom&from={first}&to={last}")
    assert page.status_code == 200
    assert 'class="chart__total">110 <small>' in page.text
    assert f'value="{first}"' in page.text
    export = alice.browser.get(f"/profile/usage.csv?range=custom&from={first}&to={last}")
    assert export.headers["Content-Disposition"] == f'attachment; filename="stoa-usage-{first}-to-{last}.csv"'
    assert export.text.count("\r\n") == 3


# -- number of queries --------------------------------------------------------------------------------------------


def test_a_bounded_number_of_queries_that_never_scan_messages(
    app: Flask, session: Session, alice: Person
) -> None:
    assert alice.user is not None
    session.get_one(User, alice.id).next_quota_reset = today(-24)
    session.commit()
    alice.browser.get("/profile")
    counts: dict[str, list[int]] = {}
    for rounds in (1, 30):
        for number in range(rounds):
            factories.grant(alice.user, 100, "admin", expires_at=today(-24 - number))
        insert_calls(
            session,
            alice.id,
            [Call(at=today(24 * 20 + n), model=f"m{rounds}-{n}", cost=Decimal(1)) for n in range(rounds * 5)],
        )
        session.commit()
        for name, path, headers in (
            ("page", "/profile?range=30d", {}),
            ("fragment", "/profile?range=30d&by=agent", HTMX),
            ("statement", "/profile?tab=statement", {}),
            ("day", f"/profile/statement/{datetime.now(UTC).date()}", {}),
        ):
            with recorded_statements(app) as statements:
                assert alice.browser.get(path, headers=headers).status_code == 200
            counts.setdefault(name, []).append(len(statements))
            bodies = [
                each for each in statements if re.search(r"message\.(request|response|reasoning_text)", each)
            ]
            assert not bodies
    for name, (few, many) in counts.items():
        assert few == many, name
    assert counts["page"][0] <= 16
    assert counts["fragment"][0] <= 7
    assert counts["statement"][0] <= 14
    assert counts["day"][0] <= 12
