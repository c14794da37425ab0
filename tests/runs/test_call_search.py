"""The search over calls finds what a plain loop finds, page by page, however few calls a page may look through."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import func, select

from models.core.db import db
from models.gateway import GatewayCall
from models.ledger.message import Message
from models.orgs import Org
from models.runs import call_search, call_sources
from models.runs.call_search import CallFilter, call_choices, calls_page, exported_calls
from models.runs.call_totals import call_totals
from models.usage.org_usage import count_calls
from tests import factories
from tests.factories import Person, now

Row = tuple[GatewayCall, Message | None, str | None]
"""A call, its message, and its agent."""

END = now().replace(microsecond=0)


@pytest.fixture
def rows(acme: Org, alice: Person, bob: Person) -> list[Row]:
    """80 calls of the organisation, several at the same time, every seventh failed; and one of alice's own account."""
    people = (alice.user, bob.user)
    made: list[Row] = []
    with factories.one_commit():
        factories.account(acme)
        runs = {
            agent: factories.run(alice.user, agent, org_id=acme.id)
            for agent in ("acme/fixer@1.0.0", "acme/fixer@1.1.0", "local")
        }
        factories.call(alice.user, model="other/account", org_id=None)
        for n in range(80):
            agent = (None, *runs)[n % 4]
            made.append(_call(n, acme, people[n % 2], agent and runs[agent].id, agent))
        for day in (END, END - timedelta(days=1)):
            db.session.execute(select(func.usage_recount(acme.id, day)))
        # as if two days later, so that the organisation has whole days
        while count_calls(acme.id, END + timedelta(days=2)):
            pass
    return made


def _call(n: int, acme: Org, who: Any, run_id: str | None, agent: str | None) -> Row:
    at = END - timedelta(minutes=n - n % 3)
    failed = n % 7 == 0
    key = "key-rare" if n == 77 else "key-1"
    model = None if failed else ("north/large", "north/small", "north/rare")[2 if n == 50 else n % 2]
    message = None
    if not failed:
        message = factories.message(
            who,
            finished_at=at,
            org_id=acme.id,
            agent_id=agent,
            key_id=key,
            model=model,
            cost=Decimal(n % 6) / 100,
            input_tokens=n + 1,
            cache_read_input_tokens=1,
            output_tokens=2,
            client_request_id=run_id,
            team_id="team-1" if n % 5 == 0 else None,
            repo_url="https://github.com/acme/api" if n % 3 == 0 else None,
            byok=n % 11 == 0,
            request=[
                {"role": "user", "content": "an earlier one"},
                {"role": "user", "content": f'Say "{n}"\nÄ'},
            ],
            response={"content": f"Answer {n}"},
        )
    values: dict[str, Any] = (
        {"message": message}
        if message
        else {"http_status": (429, 503)[n % 2], "error": f"E{n} overloaded", "cost": Decimal(0), "credits": 0}
    )
    call = factories.call(
        who,
        org_id=acme.id,
        state="failed" if failed else "settled",
        request_id=f"{n * 37 % 80:03}",
        finished_at=at,
        started_at=at - timedelta(seconds=2),
        run_id=run_id,
        key_id=key,
        model=model,
        requested_model="north/large",
        provider=("stoa", "openai")[n % 2],
        micro_credits=0 if failed else n * 100_000,
        uncached_input_tokens=0 if failed else n,
        cache_read_tokens=0 if failed else 1,
        output_tokens=0 if failed else 2,
        **values,
    )
    return call, message, agent


def _agent(name: str) -> Callable[[Row], bool]:
    return lambda row: (row[2] or "").partition("@")[0] == name or row[2] == name


FILTERS: list[tuple[dict[str, Any], Callable[[Row], bool]]] = [
    ({}, lambda row: True),
    ({"start": END - timedelta(minutes=60), "end": END - timedelta(minutes=30)}, lambda row: END - timedelta(minutes=60) <= row[0].finished_at < END - timedelta(minutes=30)),
    ({"model": "north/large"}, lambda row: (row[0].model or row[0].requested_model) == "north/large"),
    ({"model": "north/rare"}, lambda row: row[0].model == "north/rare"),
    ({"model": "north/none"}, lambda row: False),
    ({"provider": "openai"}, lambda row: row[0].provider == "openai"),
    ({"key": "key-rare"}, lambda row: row[0].key_id == "key-rare"),
    ({"key": "none"}, lambda row: False),
    ({"agent": "acme/fixer"}, _agent("acme/fixer")),
    ({"agent": "acme/fixer@1.1.0"}, _agent("acme/fixer@1.1.0")),
    ({"agent": "local"}, _agent("local")),
    ({"agent": "none"}, lambda row: row[2] is None),
    ({"agent": "local", "state": "failed"}, lambda row: row[2] == "local" and row[0].state == "failed"),
    ({"agent": "local", "key": "key-rare"}, lambda row: row[2] == "local" and row[0].key_id == "key-rare"),
    ({"team": "team-1"}, lambda row: row[1] is not None and row[1].team_id == "team-1"),
    ({"repository": "https://github.com/acme/api"}, lambda row: row[1] is not None and row[1].repo_url is not None),
    ({"repository": "none"}, lambda row: row[1] is None or row[1].repo_url is None),
    ({"repository": "none", "team": "team-1"}, lambda row: bool(row[1] and row[1].team_id and not row[1].repo_url)),
    ({"run": "none"}, lambda row: row[0].run_id is None),
    ({"state": "failed"}, lambda row: row[0].state == "failed"),
    ({"state": "settled", "model": "north/small"}, lambda row: row[0].model == "north/small"),
    ({"status": 503}, lambda row: row[0].http_status == 503),
    ({"status": 200, "provider": "stoa"}, lambda row: row[0].http_status == 200 and row[0].provider == "stoa"),
    ({"error": "e14"}, lambda row: "e14" in (row[0].error or "").lower()),
    ({"code": "E14 overloaded"}, lambda row: row[0].error == "E14 overloaded"),
    ({"code": "E14 overloaded", "state": "failed", "model": "north/large"}, lambda row: row[0].error == "E14 overloaded"),
    ({"start": END - timedelta(minutes=69, seconds=20), "model": "north/small"}, lambda row: row[0].finished_at >= END - timedelta(minutes=69, seconds=20) and row[0].model == "north/small"),
    ({"above": 5_500_000}, lambda row: row[0].micro_credits > 5_500_000 and not (row[1] and row[1].byok)),
    ({"above": 7_000_000, "model": "north/rare"}, lambda row: False),
    ({"above": 720_000, "provider": "openai"}, lambda row: row[0].provider == "openai" and row[0].micro_credits > 720_000 and not (row[1] and row[1].byok)),
    ({"text": 'SAY "12'}, lambda row: row[1] is not None and '"12' in str(row[1].request)),
    ({"text": "ä"}, lambda row: row[1] is not None),
    ({"text": "an earlier"}, lambda row: False),
    ({"text": "answer 5", "provider": "stoa"}, lambda row: row[1] is not None and row[0].provider == "stoa" and "Answer 5" in str(row[1].response)),
]  # fmt: skip


BY_ROLLUPS = (["key"], ["model"], ["agent"], ["state", "code", "model"])


@pytest.mark.parametrize("sort", ["newest", "dearest"])
@pytest.mark.parametrize("small", [False, True], ids=["whole", "cut"])
def test_every_filter_finds_what_a_loop_finds(
    app: Flask,
    acme: Org,
    bob: Person,
    rows: list[Row],
    monkeypatch: pytest.MonkeyPatch,
    small: bool,
    sort: str,
) -> None:
    if small:  # each page looks through very few calls
        for module, name, value in (
            (call_sources, "SCAN", 30),
            (call_sources, "MESSAGE_SCAN", 20),
            (call_sources, "PROBE", 5),
            (call_search, "TEXT_ROWS", 30),
            (call_search, "TEXT_BYTES", 1500),
            (call_search, "BATCH", 40),
        ):
            monkeypatch.setattr(module, name, value)
    order = sorted(rows, key=lambda row: (row[0].finished_at, row[0].request_id), reverse=True)
    for values, matches in FILTERS:
        for member in ("", bob.id) if len(values) == 1 else ("",):
            filter = CallFilter(**values, user_id=member, sort=sort)
            expected = [row[0] for row in order if matches(row) and member in ("", row[0].user_id)]
            listed = expected
            if sort == "dearest":
                listed = sorted((call for call in expected if call.cost), key=lambda call: -call.cost)
            ids = [call.request_id for call in listed]
            found, after, pages = [], None, 0
            while after is not None or not pages:
                page = calls_page(acme.id, filter, after, limit=30)
                found += [row.request_id for row in page.calls]
                after, pages = page.next, pages + 1
                assert pages < 300, values
            assert found == ids, (values, sort)
            if not filter.text and (not small or filter.tests in BY_ROLLUPS):
                _check_totals(acme, filter, expected, rows)
            if not member:
                assert [row.request_id for row in exported_calls(acme.id, filter)] == ids, values


def _check_totals(acme: Org, filter: CallFilter, expected: list[GatewayCall], rows: list[Row]) -> None:
    own_key = {row[0].request_id for row in rows if row[1] and row[1].byok}
    totals = call_totals(acme.id, filter)
    assert (totals.calls, totals.failed, totals.partly) == (
        len(expected),
        sum(call.state == "failed" for call in expected),
        False,
    ), filter
    assert totals.input_tokens == sum(
        call.uncached_input_tokens + call.cache_read_tokens for call in expected
    )
    assert totals.output_tokens == sum(call.output_tokens for call in expected)
    assert totals.cost == sum((call.cost for call in expected), Decimal(0))
    assert totals.credits == sum(call.credits for call in expected if call.request_id not in own_key)


def test_text_is_searched_only_in_what_the_reader_may_read(
    app: Flask, acme: Org, bob: Person, rows: list[Row]
) -> None:
    filter = CallFilter(text="answer", reader=bob.id)
    assert {row.user_id for row in calls_page(acme.id, filter).calls} == {bob.id}
    assert len({row.user_id for row in calls_page(acme.id, replace(filter, text="")).calls}) == 2


def test_other_accounts_are_not_searched(
    app: Flask, acme: Org, alice: Person, mallory: Person, rows: list[Row]
) -> None:
    for values, _ in FILTERS:
        assert not calls_page(mallory.id, CallFilter(**values)).calls, values
    assert [row.model for row in calls_page(alice.id, CallFilter()).calls] == ["other/account"]
    assert call_choices(mallory.id).models == []
    assert call_choices(acme.id).models == ["north/large", "north/rare", "north/small"]
    assert call_choices(acme.id).agents == ["acme/fixer", "local"]


def test_few_dear_calls_are_paged_in_order(app: Flask, acme: Org, rows: list[Row]) -> None:
    for sort in ("newest", "dearest"):
        filter, after, found = CallFilter(above=5_000_000, sort=sort), None, list[str]()
        whole = [row.request_id for row in calls_page(acme.id, filter).calls]
        for _ in range(20):
            page = calls_page(acme.id, filter, after, limit=3)
            found += [row.request_id for row in page.calls]
            after = page.next
            if after is None:
                break
        assert len(whole) > 10
        assert found == whole
