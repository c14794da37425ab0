"""The list of calls and its export: what they show, to whom, bad values, chosen columns."""

import csv
import html
import io
import json
import re
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import event
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session as OrmSession

from models.gateway import GatewayCall
from models.orgs import Org
from tests import factories
from tests.factories import Person, now
from tests.usage.billed_calls import Call, insert_calls

HTMX = {"HX-Request": "true"}
HOSTILE = "<script>alert(1)</script>\"'{{7*7}}"


def add_call(who: Person, minutes: int = 1, /, **values: Any) -> GatewayCall:
    """A settled call with its message, some minutes ago."""
    at = now() - timedelta(minutes=minutes)
    model = values.setdefault("model", "north/large")
    message = factories.message(who.user, finished_at=at, model=model, **values.pop("body", {}))
    defaults = {"message": message, "finished_at": at, "micro_credits": 421_500, "requested_model": model}
    return factories.call(who.user, **(defaults | values))


def add_failure(who: Person, minutes: int = 2, /, **values: Any) -> GatewayCall:
    at = now() - timedelta(minutes=minutes)
    defaults = {
        "model": None,
        "requested_model": "north/broken",
        "error": "out_of_credits",
        "http_status": 402,
    }
    return factories.call(who.user, state="failed", provider=None, finished_at=at, **(defaults | values))


@pytest.mark.usefixtures("kind")
def test_list_shows_every_call_with_its_page_and_totals(
    session: OrmSession, alice: Person, mallory: Person
) -> None:
    assert "No calls yet" in alice.browser.get("/calls").text
    run = factories.run(alice.user)
    settled, failed = add_call(alice, run_id=run.id), add_failure(alice)
    add_call(mallory, model="secret/model")
    session.commit()
    page = alice.browser.get("/calls").text
    assert page.index(f"/calls/{settled.request_id}") < page.index(f"/calls/{failed.request_id}")
    for text in ("north/large", "north/broken", "Out of credits", "Refused", "0.422", "data-panel"):
        assert text in page, text
    assert "secret/model" not in page
    assert "Out of credits" not in alice.browser.get("/calls?state=settled").text
    nothing = alice.browser.get("/calls?model=nothing&range=1h").text
    assert "No matching calls" in nothing
    assert 'aria-label="Remove filter: Model: nothing"' in nothing
    assert f'href="{alice.home}/calls?model=nothing"' in nothing  # without the time
    fragment = alice.browser.get("/calls?status=402&range=all", headers=HTMX)
    assert fragment.text.startswith("<section")
    assert fragment.headers["HX-Push-Url"] == f"{alice.home}/calls?status=402"


@pytest.mark.usefixtures("kind")
def test_export_is_what_the_list_shows(session: OrmSession, alice: Person) -> None:
    for minutes in range(1, 60):
        add_call(alice, minutes, model=f"north/{minutes % 2}", run_id=None)
    add_failure(alice, error="=cmd()")
    session.commit()
    query = "model=north/1&column=run&column=credits&column=error"
    first = alice.browser.get(f"/calls?{query}").text
    answer = alice.browser.get(f"/calls/export?{query}")
    assert answer.headers["Content-Disposition"].endswith('.csv"')
    lines = list(csv.DictReader(io.StringIO(answer.text)))
    assert list(lines[0]) == ["call", "model", "run", "error", "credits"]
    assert len(lines) == 30
    assert [line["call"] for line in lines] == _ids(first)
    assert {line["credits"] for line in lines} == {"0.4215"}
    parsed = json.loads(alice.browser.get(f"/calls/export?{query}&format=json").text)
    assert [row["call"] for row in parsed] == [line["call"] for line in lines]
    failed = alice.browser.get("/calls/export?state=failed&column=error").text
    assert "'=cmd()" in failed
    assert alice.browser.get("/calls/export?format=xml").status_code == 422


def _ids(page: str) -> list[str]:
    """The request ids of the listed calls."""
    return re.findall(r'href="[^"]*/calls/([^"/]+)" data-panel-link', page)


def test_older_calls_follow(session: OrmSession, alice: Person) -> None:
    for minutes in range(1, 56):
        add_call(alice, minutes)
    session.commit()
    first = alice.browser.get("/calls?model=north/large")
    href = html.unescape(first.text.split("data-load-more")[1].split('href="')[1].split('"')[0])
    more = alice.browser.get(href, headers=HTMX).text
    assert 'hx-swap-oob="beforeend:#call-rows"' in more
    whole = alice.browser.get(href).text
    assert _ids(first.text) + _ids(more) == _ids(first.text) + _ids(whole)
    assert len({*_ids(first.text), *_ids(whole)}) == 55
    assert "Load more" not in whole


@pytest.mark.usefixtures("kind")
def test_calls_are_sorted_by_cost(session: OrmSession, alice: Person) -> None:
    with factories.one_commit():
        costs = [Decimal(n % 4) / 100 for n in range(120)]  # 30 of each cost, a quarter of nothing
        calls = [add_call(alice, n + 1, cost=cost, model=f"north/{n % 2}") for n, cost in enumerate(costs)]
        add_failure(alice)
        add_call(alice, 60 * 24 * 20, cost=Decimal(5), model="north/1")
    dearest = sorted(
        (call for call in calls if call.cost and call.model == "north/1"), key=lambda call: -call.cost
    )
    ids = [call.request_id for call in dearest]
    query = "sort=dearest&model=north/1&range=7d"
    first = alice.browser.get(f"/calls?{query}").text
    assert _ids(first) == ids[:50]
    heads = dict(re.findall(r"<th([^>]*)><a class=\"sort\" href=\"[^\"]*\">(\w+)", first))
    assert 'aria-sort="descending"' in next(head for head, name in heads.items() if name == "Cost")
    assert f'href="{alice.home}/calls?range=7d&amp;model=north/1">Finished' in first  # the filters stay
    href = html.unescape(first.split("data-load-more")[1].split('href="')[1].split('"')[0])
    more = alice.browser.get(href, headers=HTMX).text
    assert _ids(more) == ids[50:]
    assert "Load more" not in more
    for kind in ("csv", "json"):
        text = alice.browser.get(f"/calls/export?{query}&format={kind}").text
        rows = list(csv.DictReader(io.StringIO(text))) if kind == "csv" else json.loads(text)
        assert [row["call"] for row in rows] == ids
    assert "Calls that cost nothing" in first
    assert "that cost something" in alice.browser.get("/calls?sort=dearest&state=failed").text
    newest = alice.browser.get("/calls?model=north/1").text
    assert f'href="{alice.home}/calls?sort=dearest&amp;model=north/1">Cost' in newest


def test_usage_leads_to_the_dearest_calls_of_its_period(
    session: OrmSession, alice: Person, acme: Org
) -> None:
    link = re.compile(r'href="([^"]*)"[^>]*>Dearest calls<')
    assert not link.search(alice.browser.get("/profile?tab=usage").text)
    insert_calls(session, alice.id, [Call(now(), model="north/a")])
    message = factories.message(alice.user, finished_at=now(), model="north/a", org_id=acme.id)
    factories.call(alice.user, message=message, org_id=acme.id, model="north/a")
    session.commit()
    for page, filter in (("/profile?tab=usage&range=7d", "model=north/a"), ("/orgs/acme/usage?range=7d", "")):
        found = link.search(alice.browser.get(f"{page}&{filter}").text)
        assert found, page
        address = html.unescape(found[1])
        for part in ("/calls?", "sort=dearest", filter):
            assert part in address
        assert "range=7d" in address or "range=custom" in address
        assert "north/a" in alice.browser.get(address).text.partition('id="call-rows"')[2]


@pytest.mark.parametrize(
    ("query", "field", "message"),
    [
        ("range=never", "range", "Choose a time"),
        ("range=custom&from=yesterday", "from", "Enter a time like"),
        ("range=custom&from=2026-13-45", "from", "Enter a time like"),
        ("from=0001-01-01T00:00", "from", "Enter a time like"),
        ("range=custom&from=2026-11-20&to=2026-11-19", "to", "after the first"),
        ("state=refused", "state", "Choose a state"),
        ("sort=cheapest", "sort", "Choose an order"),
        ("status=4x", "status", "100 to 599"),
        ("status=99999999999999999999", "status", "100 to 599"),
        ("above=-1", "above", "such as 2"),
        ("above=nan", "above", "such as 2"),
        ("above=1e999999", "above", "such as 2"),
        ("model=" + "m" * 201, "model", "at most 200"),
    ],
)
def test_bad_values_are_answered_beside_their_fields(
    app: Flask, alice: Person, query: str, field: str, message: str
) -> None:
    answer = alice.browser.get(f"/calls?{query}")
    assert answer.status_code == 422
    note = answer.text.partition(f'id="{field}-e"')[2].partition("</p>")[0]
    assert message in note
    assert alice.browser.get(f"/calls?{query}", headers=HTMX).status_code == 422
    assert alice.browser.get(f"/calls/export?{query}").status_code == 422


def test_hostile_values_are_text(session: OrmSession, alice: Person) -> None:
    add_failure(alice, error=HOSTILE, requested_model=HOSTILE)
    session.commit()
    names = (
        "text",
        "model",
        "provider",
        "key",
        "agent",
        "run",
        "member",
        "team",
        "repository",
        "error",
        "version",
    )
    for value in (
        HOSTILE,
        "%",
        "_",
        "\\",
        "a\0b",
        "\ud800".encode("utf-8", "surrogatepass"),
        "none",
        "@",
        "'",
    ):
        for name in names:
            answer = alice.browser.get("/calls", query_string={name: value})
            assert answer.status_code == 200, (name, value)
            assert "<script>alert" not in answer.text
    for after in ("x", "2026-11-20T00:00:00+00:00~", "2026-11-20~a", "~", "9999-12-31T23:59:59+00:00~\0"):
        assert alice.browser.get("/calls", query_string={"after": after}).status_code == 422, after
    for after in (
        "1~2026-11-20T00:00:00~a",
        "-1~2026-11-20T00:00:00+00:00~a",
        "1e9~2026-11-20T00:00:00+00:00~a",
        "NaN~x~y",
        "~~",
    ):
        query = {"after": after, "sort": "dearest"}
        assert alice.browser.get("/calls", query_string=query).status_code == 422, after
    assert alice.browser.get("/calls?column=nothing&column=%00&range=%00").status_code == 200


def test_chosen_columns_are_remembered(session: OrmSession, alice: Person) -> None:
    add_call(alice, http_status=218)
    session.commit()
    assert "HTTP status</th>" not in alice.browser.get("/calls").text
    assert "HTTP status</th>" in alice.browser.get("/calls?column=status&column=credits").text
    page = alice.browser.get("/calls").text
    assert "HTTP status</th>" in page
    assert "Latency</th>" not in page
    assert "218" in page


def test_members_see_what_their_role_sees(session: OrmSession, acme: Org, cast: dict[str, Person]) -> None:
    factories.account(acme)
    with factories.one_commit():
        for name in ("alice", "bob"):
            who = cast[name]
            message = factories.message(
                who.user, org_id=acme.id, request=[{"role": "user", "content": f"secret {name}"}]
            )
            factories.call(
                who.user,
                message=message,
                finished_at=message.finished_at,
                org_id=acme.id,
                model=f"north/{name}",
            )
    seen = {name: person.browser.get("/orgs/acme/calls") for name, person in cast.items()}
    assert {name: page.status_code for name, page in seen.items()} == {
        "alice": 200, "carol": 200, "bob": 200, "dave": 200, "mallory": 404, "anonymous": 302,
    }  # fmt: skip
    for name, all_of in (("alice", True), ("carol", True), ("dave", True), ("bob", False)):
        assert ("north/alice" in seen[name].text) is all_of, name
        member = cast[name].browser.get(f"/orgs/acme/calls?member={cast['alice'].id}").text
        assert ("north/alice" in member.partition('id="calls"')[2]) is all_of
        dearest = cast[name].browser.get("/orgs/acme/calls?sort=dearest").text
        assert ("north/alice" in dearest.partition('id="calls"')[2]) is all_of, name
        exported = cast[name].browser.get("/orgs/acme/calls/export").text
        assert ("north/alice" in exported) is all_of
        found = cast[name].browser.get("/orgs/acme/calls?text=secret").text
        # the billing role sees figures, and reads no messages
        assert ("north/alice" in found.partition('id="calls"')[2]) is (name in ("alice", "carol")), name
    for name, status in (("mallory", 404), ("anonymous", 302)):
        assert cast[name].browser.get("/orgs/acme/calls/export").status_code == status
        assert cast[name].browser.get("/orgs/acme/calls?sort=dearest").status_code == status
    assert cast["anonymous"].browser.get("/calls").status_code == 302
    assert "north/" not in cast["alice"].browser.get("/calls").text


@pytest.fixture
def statements(engine: Engine) -> Iterator[list[str]]:
    """The statements that ran."""
    seen: list[str] = []

    def note(_c: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        seen.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    yield seen
    event.remove(engine, "before_cursor_execute", note)


def test_number_of_queries_does_not_grow_with_the_rows(
    session: OrmSession, alice: Person, statements: list[str]
) -> None:
    counts = []
    for calls in (1, 40):
        for minutes in range(calls):
            add_call(alice, minutes)
        session.commit()
        statements.clear()
        assert alice.browser.get("/calls?model=north/large&provider=stoa").status_code == 200
        counts.append(len(statements))
    assert counts[0] == counts[1] <= 14
