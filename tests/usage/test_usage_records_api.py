"""`/api/v1/usage` as rows, sums, series and export (crafely contract 9.3, acceptance checks 9, 21, 22)."""

import csv
import io
import json
import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from models.accounts import key_format, scopes
from models.accounts.api_keys import ApiKey
from models.accounts.credentials import hash_token
from models.core.pool import Pool
from models.ledger import AdmissionRequest, admit, settle
from models.orgs import Org
from models.usage import UsageRollup, UsageZone, usage_records, zone_rollups
from models.usage.usage_window import MOST_COLUMNS, UsageWindow
from tests import factories
from tests.factories import Person
from tests.ledger import stage

SUMS = ("requests", "tokens_in", "tokens_out", "tokens_total", "tokens_cached", "credits")
CHANGES = {
    "America/New_York": (datetime(2026, 3, 8, 7, tzinfo=UTC), datetime(2026, 11, 1, 6, tzinfo=UTC)),
    "Europe/Berlin": (datetime(2026, 3, 29, 1, tzinfo=UTC), datetime(2026, 10, 25, 1, tzinfo=UTC)),
    "Australia/Lord_Howe": (datetime(2026, 4, 4, 15, tzinfo=UTC), datetime(2026, 10, 3, 15, 30, tzinfo=UTC)),
}
"""When clocks change; in the last zone by half an hour."""
WHOLE = {"from": "2026-01-01", "to": "2027-01-01"}


@dataclass(frozen=True)
class Called:
    """A call as it was settled."""

    at: datetime
    key: str
    provider: str
    model: str
    door: str
    tokens_in: int
    tokens_out: int
    cached: int
    cost: Decimal
    byok: bool


@pytest.fixture
def pool(postgres_url: str, alice: Person) -> Iterator[Pool]:
    """Settles calls of alice, who has credits."""
    assert alice.user
    factories.grant(alice.user, 100_000, "purchase")
    gateway = Pool(postgres_url, 2)
    yield gateway
    gateway.close()


def call_of(pool: Pool, token: str, at: datetime, door: str = "openai", **facts: Any) -> str:
    """Admit and settle a call, and return its message's id."""
    presented = key_format.present(token)
    request = AdmissionRequest(
        token_hash=presented.id,
        secret=presented.secret,
        request_id=factories.new_id("req-"),
        hold=0,
        model="m",
        door=door,
        scope=scopes.CHAT,
    )
    admission = admit(pool, request, worker="test", free_credits=10_000, now=at)
    assert admission.outcome == "admitted", admission
    settled = settle(pool, admission, stage.call(started_at=at, **facts), now=at)
    assert settled.message_id
    return settled.message_id


def history(pool: Pool, rng: random.Random, tokens: list[str], count: int) -> list[Called]:
    """Random calls around the changes of clocks: within half an hour of them, and within days."""
    found = []
    moments = [moment for pair in CHANGES.values() for moment in pair]
    for number in range(count):
        spread = rng.choice([1800, 6 * 3600, 4 * 86_400])
        at = rng.choice(moments) + timedelta(seconds=rng.randrange(-spread, spread), microseconds=number)
        door = rng.choice(["openai", "anthropic", "embeddings", "images", "speech"])
        call = Called(
            at,
            rng.choice(tokens),
            rng.choice(["openrouter", "demo"]),
            f"lab/m{rng.randrange(3)}",
            door,
            0,
            rng.randrange(500),
            rng.choice([0, rng.randrange(9000)]),
            Decimal(rng.randrange(10**6)) / 10**8,
            rng.random() < 0.2,
        )
        uncached, written = rng.randrange(5000), rng.choice([0, rng.randrange(300)])
        call_of(
            pool,
            call.key,
            at,
            door,
            provider=call.provider,
            model=call.model,
            uncached_input_tokens=uncached,
            cache_write_tokens=written,
            cache_read_tokens=call.cached,
            output_tokens=call.tokens_out,
            cost=call.cost,
            byok=call.byok,
        )
        found.append(Called(**{**call.__dict__, "tokens_in": uncached + written + call.cached}))
    return found


def get(person: Person, path: str, status: int = 200, **query: Any) -> Any:
    """The JSON of a route for the person's key."""
    named = {{"start": "from", "end": "to"}.get(name, name): value for name, value in query.items()}
    answer = person.browser.get(f"/api/v1{path}", query_string=named, headers=person.headers)
    assert answer.status_code == status, answer.text
    return answer.json


def with_key(person: Person, token: str) -> Person:
    return Person(person.id, person.user, person.browser, token, {"authorization": f"Bearer {token}"})


def all_rows(person: Person, limit: int = 37, **query: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    cursor: str | None = ""
    while cursor is not None:
        page = get(person, "/usage", limit=limit, **query, **({"cursor": cursor} if cursor else {}))
        rows += page["data"]
        cursor = page["next_cursor"]
    return rows


def added(rows: list[dict[str, Any]]) -> dict[str, Any]:
    counts = {name: sum(row.get(name, 1) for row in rows) for name in SUMS}
    return counts | {"cost": sum((Decimal(row["cost"]) for row in rows), Decimal(0))}


def exact(totals: dict[str, Any]) -> dict[str, Any]:
    return {**{name: totals[name] for name in SUMS}, "cost": Decimal(totals["cost"])}


def check_window(person: Person, query: dict[str, str], calls: list[Called]) -> None:
    """Rows, summary, series of every kind and the settled calls agree on a window."""
    rows = all_rows(person, scope="me", **query)
    expected = added(rows)
    assert expected["requests"] == len(calls)
    assert expected["tokens_in"] == sum(call.tokens_in for call in calls)
    assert expected["tokens_total"] == sum(call.tokens_in + call.tokens_out for call in calls)
    assert expected["cost"] == sum((call.cost for call in calls), Decimal(0))
    summary = get(person, "/usage/summary", scope="me", **query)
    assert exact(summary["totals"]) == expected == added(summary["by_model"])
    assert summary["complete"]
    for group in ("day", "week", "month", "hour"):
        if group == "hour" and query["from"] == WHOLE["from"]:
            get(person, "/usage/series", 422, scope="me", group_by="hour", **query)
            continue
        split = {"day": "key", "week": "provider", "month": "model", "hour": "member"}[group]
        series = get(person, "/usage/series", scope="me", group_by=group, split=split, **query)
        assert series["total_tokens"] == expected["tokens_total"]
        assert series["total_requests"] == expected["requests"]
        assert series["total_credits"] == expected["credits"]
        assert Decimal(series["total_cost"]) == expected["cost"]
        dates = series["usage"]
        assert len({each["date"] for each in dates}) == len(dates)
        for name in ("tokens", "credits", "requests"):
            assert sum(each[name] for each in dates) == series[f"total_{name}"]
            assert all(each[name] == sum(part[name] for part in each["parts"]) for each in dates)
        assert sum((Decimal(each["cost"]) for each in dates), Decimal(0)) == expected["cost"]
        if group != "hour":
            assert {each["date"]: each["requests"] for each in dates if each["requests"]} == by_date(
                calls, group, ZoneInfo(query["tz"])
            )


def by_date(calls: list[Called], group: str, zone: ZoneInfo) -> dict[str, int]:
    found: dict[str, int] = defaultdict(int)
    for call in calls:
        day = call.at.astimezone(zone).date()
        first = {
            "day": day,
            "week": day - timedelta(days=day.weekday()),
            "month": day.replace(day=1),
        }[group]
        found[first.isoformat()] += 1
    return found


@pytest.mark.parametrize("seed", range(2))
def test_rows_summary_and_series_agree_where_clocks_change(
    session: Session, pool: Pool, alice: Person, seed: int
) -> None:
    rng = random.Random(seed)
    calls = history(pool, rng, [alice.token], 90)
    for counted in (False, True):
        for zone, changes in CHANGES.items():
            if counted:
                count_zone(session, alice, zone)
            check_window(alice, {**WHOLE, "tz": zone}, calls)
            for change in changes:
                start = change - timedelta(seconds=rng.randrange(1, 3 * 86_400))
                end = change + timedelta(seconds=rng.randrange(3 * 86_400))
                query = {"from": start.isoformat(), "to": end.isoformat(), "tz": zone}
                check_window(alice, query, [call for call in calls if start <= call.at < end])


def count_zone(session: Session, person: Person, zone: str) -> None:
    """Count the days of a zone that was viewed, as its job does."""
    session.rollback()
    assert session.get(UsageZone, (person.id, zone))
    while zone_rollups.count_days(person.id, zone, datetime(2026, 12, 30, tzinfo=UTC)):
        session.commit()
    session.commit()
    days = UsageRollup.grain == f"day {zone}"
    assert session.scalar(select(func.count()).select_from(UsageRollup).where(days))


def test_filters_of_rows_and_sums_are_the_same(session: Session, pool: Pool, alice: Person) -> None:
    assert alice.user
    other = factories.token(alice.user)
    calls = history(pool, random.Random(5), [alice.token, other], 60)
    types = {"openai": "chat", "anthropic": "chat", "images": "image", "speech": "audio"}
    kinds: list[tuple[dict[str, str], Any]] = [
        ({"provider": "demo"}, lambda call: call.provider == "demo"),
        ({"model": "lab/m1"}, lambda call: call.model == "lab/m1"),
        ({"type": "chat"}, lambda call: types.get(call.door) == "chat"),
        ({"type": "embeddings"}, lambda call: call.door == "embeddings"),
        ({"type": "image"}, lambda call: call.door == "images"),
        ({"type": "audio", "provider": "demo"}, lambda c: c.door == "speech" and c.provider == "demo"),
        ({"api_key_id": hash_token(other)}, lambda call: call.key == other),
        ({"user_id": alice.id, "model": "lab/m2"}, lambda call: call.model == "lab/m2"),
        ({"user_id": "nobody"}, lambda call: False),
        ({"agent_id": "acme/x@1.0.0"}, lambda call: False),
        ({"scope": "key"}, lambda call: call.key == alice.token),
        ({"scope": "key", "api_key_id": hash_token(other)}, lambda call: False),
    ]
    for query, matches in kinds:
        expected = [call for call in calls if matches(call)]
        asked = {"scope": "me", **WHOLE, **query}
        rows = all_rows(alice, **asked)
        assert len(rows) == len(expected), query
        totals = get(alice, "/usage/summary", **asked)["totals"]
        assert exact(totals) == added(rows)
        assert get(alice, "/usage/series", group_by="month", **asked)["total_requests"] == len(expected)


def test_cached_input_is_counted_once_and_money_is_three_numbers(
    session: Session, pool: Pool, alice: Person
) -> None:
    at = datetime(2026, 5, 4, 12, tzinfo=UTC)
    facts = {
        "uncached_input_tokens": 100,
        "cache_read_tokens": 900,
        "cache_write_tokens": 40,
        "output_tokens": 50,
        "reasoning_tokens": 20,
        "cost": Decimal("0.1"),
    }
    paid = call_of(pool, alice.token, at, **facts)
    own = call_of(pool, alice.token, at, byok=True, error="upstream_error", **facts)
    rows = {row["id"]: row for row in all_rows(alice, **WHOLE)}
    assert set(rows) == {paid, own}
    for row in rows.values():
        assert (row["tokens_in"], row["tokens_out"], row["tokens_total"]) == (1040, 50, 1090)
        assert (row["tokens_cached"], row["tokens_cache_write"], row["tokens_reasoning"]) == (900, 40, 20)
        assert (row["cost"], row["currency"], row["type"]) == ("0.1", "usd", "chat")
    assert (rows[paid]["credits"], rows[paid]["exact_credits"], rows[paid]["margin"]) == (
        11,
        "10.55",
        "0.0055",
    )
    assert (rows[own]["credits"], rows[own]["exact_credits"], rows[own]["margin"]) == (0, "0", "0")
    assert [rows[id]["byok"] for id in (paid, own)] == [False, True]
    assert [rows[id]["status"] for id in (paid, own)] == ["completed", "interrupted"]
    totals = get(alice, "/usage/summary", **WHOLE)["totals"]
    assert (totals["tokens_total"], totals["tokens_cached"], totals["cost"]) == (2180, 1800, "0.2")
    assert totals["credits"] == 11
    assert get(alice, f"/usage/{paid}") == rows[paid]


def test_pages_are_stable_at_equal_times_and_bounded_with_rare_filters(
    session: Session, pool: Pool, alice: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = datetime(2026, 5, 4, 12, tzinfo=UTC)
    ids = {call_of(pool, alice.token, at, model=f"lab/m{number % 4}") for number in range(12)}
    rare = call_of(pool, alice.token, at - timedelta(days=1), "embeddings")
    rows = all_rows(alice, limit=5, **WHOLE)
    assert [row["id"] for row in rows][-1] == rare
    assert {row["id"] for row in rows} == ids | {rare}
    assert len(rows) == 13

    monkeypatch.setattr(usage_records, "SCAN", 5)
    page = get(alice, "/usage", type="embeddings", **WHOLE)
    assert page["data"] == []
    assert page["next_cursor"]
    assert [row["id"] for row in all_rows(alice, type="embeddings", **WHOLE)] == [rare]
    assert len(all_rows(alice, **WHOLE)) == 13


def test_the_export_has_every_row_in_both_formats(
    session: Session, pool: Pool, alice: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    history(pool, random.Random(8), [alice.token], 25)
    call_of(pool, alice.token, datetime(2026, 5, 4, tzinfo=UTC), client_id="=1+1")
    monkeypatch.setattr(usage_records, "FIRST_BATCH", 3)
    monkeypatch.setattr(usage_records, "BATCH", 10)
    rows = all_rows(alice, **WHOLE)
    asked = {"query_string": WHOLE, "headers": alice.headers}
    answer = alice.browser.get("/api/v1/usage/export", **asked)
    assert answer.mimetype == "text/csv"
    lines = list(csv.DictReader(io.StringIO(answer.text)))
    assert [line["id"] for line in lines] == [row["id"] for row in rows]
    assert sum(Decimal(line["cost"]) for line in lines) == added(rows)["cost"]
    assert sum(int(line["tokens_total"]) for line in lines) == added(rows)["tokens_total"]
    assert {line["client_id"] for line in lines} == {"", "'=1+1"}
    asked["query_string"] = {**WHOLE, "format": "jsonl"}
    answer = alice.browser.get("/api/v1/usage/export", **asked)
    assert [json.loads(line) for line in answer.text.splitlines()] == rows
    empty = {**asked, "query_string": {"to": "2026-01-01", "format": "jsonl"}}
    assert alice.browser.get("/api/v1/usage/export", **empty).text == ""


@pytest.fixture
def shared(session: Session, pool: Pool, acme: Org, alice: Person, bob: Person) -> dict[str, str]:
    """Message ids: of alice and bob on their own accounts, and on acme's with a key of it each."""
    assert alice.user
    assert bob.user
    factories.grant(bob.user, 100, "purchase")
    factories.grant(alice.user, 100, "organization", org_id=acme.id)
    at = datetime(2026, 5, 4, 12, tzinfo=UTC)
    found = {"alice": call_of(pool, alice.token, at), "bob": call_of(pool, bob.token, at)}
    for person in (alice, bob):
        assert person.user
        token = factories.token(person.user, org_id=acme.id)
        name = "alice" if person is alice else "bob"
        found[f"{name}'s key"] = token
        found[f"{name} at acme"] = call_of(pool, token, at)
    return found


def ids(person: Person, **query: Any) -> set[str]:
    return {row["id"] for row in all_rows(person, **{**WHOLE, **query})}


def test_each_scope_shows_what_its_key_may_see(
    acme: Org, cast: dict[str, Person], shared: dict[str, str]
) -> None:
    alice, bob, mallory = cast["alice"], cast["bob"], cast["mallory"]
    whole = {shared["alice at acme"], shared["bob at acme"]}
    key_of_bob = with_key(bob, shared["bob's key"])
    for query in ({}, {"scope": "key"}, {"scope": "me"}):
        assert ids(alice, **query) == {shared["alice"]}
        assert ids(key_of_bob, **query) == {shared["bob at acme"]}
        assert ids(mallory, **query) == set()
    for org in (acme.id, acme.slug):
        for name, seen in (
            ("alice", whole),
            ("carol", whole),
            ("dave", whole),
            ("bob", {shared["bob at acme"]}),
        ):
            assert ids(cast[name], scope="org", org_id=org) == seen
            body = get(cast[name], f"/orgs/{org}/usage", **WHOLE)
            assert body["total_requests"] == len(seen)
            assert body["user_id"] == (bob.id if name == "bob" else None)
    assert ids(key_of_bob, scope="org") == {shared["bob at acme"]}
    assert ids(with_key(alice, shared["alice's key"]), scope="org") == whole
    get(alice, "/usage", 422, scope="org")
    random_org = get(mallory, "/usage", 404, scope="org", org_id="nothing")
    foreign_org = get(mallory, "/usage", 404, scope="org", org_id=acme.id)
    assert random_org["error"] == foreign_org["error"]
    assert get(mallory, f"/orgs/{acme.id}/usage", 404)["error"] == random_org["error"]
    assert get(mallory, "/orgs/a%00b/usage", 404)["error"]


def test_a_row_by_id_is_its_owners(acme: Org, cast: dict[str, Person], shared: dict[str, str]) -> None:
    sees = {
        "alice": {"alice", "alice at acme", "bob at acme"},
        "bob": {"bob", "bob at acme"},
        "carol": {"alice at acme", "bob at acme"},
        "mallory": set(),
    }
    for name, seen in sees.items():
        missing = get(cast[name], "/usage/nothing", 404)["error"]
        for row in ("alice", "bob", "alice at acme", "bob at acme"):
            body = get(cast[name], f"/usage/{shared[row]}", 200 if row in seen else 404)
            assert row in seen or body["error"] == missing
    key_of_bob = with_key(cast["bob"], shared["bob's key"])
    get(key_of_bob, f"/usage/{shared['bob at acme']}")
    for row in ("bob", "alice at acme"):  # whoever used an organisation's key before may know it
        get(key_of_bob, f"/usage/{shared[row]}", 404)
    get(cast["alice"], "/usage/a%00b", 404)


def test_sums_of_an_organisation_by_key_model_and_day(
    acme: Org, alice: Person, shared: dict[str, str]
) -> None:
    body = get(alice, f"/orgs/{acme.slug}/usage", start="2026-05-03", end="2026-05-06", tz="Asia/Kathmandu")
    assert [(day["date"], day["requests"]) for day in body["daily_usage"]] == [
        ("2026-05-03", 0),
        ("2026-05-04", 2),
        ("2026-05-05", 0),
    ]
    assert [(model["provider"], model["model"]) for model in body["usage_by_model"]] == [
        ("openrouter", "north/large-4")
    ]
    keys = {hash_token(shared[f"{name}'s key"]) for name in ("alice", "bob")}
    assert {key["api_key_id"] for key in body["usage_by_api_key"]} == keys
    for part in ("usage_by_api_key", "usage_by_model"):
        assert sum(each["tokens_total"] for each in body[part]) == body["total_tokens"] == 2400
        assert sum(each["credits"] for each in body[part]) == body["total_credits"] == 2
    series = get(
        alice, "/usage/series", scope="org", org_id=acme.id, split="member", group_by="month", **WHOLE
    )
    parts = [part for month in series["usage"] for part in month["parts"]]
    assert {(part["name"], part["requests"]) for part in parts} == {("alice", 1), ("bob", 1)}


def test_the_usage_of_a_key_by_its_id(session: Session, pool: Pool, alice: Person, mallory: Person) -> None:
    assert alice.user
    token = factories.api_key(alice.user, permissions=["usage:read", "inference:chat"])
    key = session.scalars(select(ApiKey)).one()
    at = datetime(2026, 5, 4, 12, tzinfo=UTC)
    call_of(pool, alice.token, at)
    call_of(pool, token, at)
    scoped = with_key(alice, token)
    for reader in (alice, scoped):
        body = get(reader, f"/api-keys/{key.id}/usage", group_by="month", **WHOLE)
        assert body["total_requests"] == 1
        assert len(body["usage"]) == 12
        assert ids(reader, scope="me", api_key_id=key.id) == ids(scoped)
    parts = get(alice, "/usage/series", scope="me", split="key", group_by="month", **WHOLE)["usage"][4][
        "parts"
    ]
    assert {part["key"] for part in parts} == {key.id, hash_token(alice.token)}
    missing = get(mallory, "/api-keys/key_nothing/usage", 404)
    assert get(mallory, f"/api-keys/{key.id}/usage", 404)["error"] == missing["error"]


def test_a_split_shows_twenty_keys_and_the_rest(session: Session, pool: Pool, alice: Person) -> None:
    at = datetime(2026, 5, 4, 12, tzinfo=UTC)
    for number in range(23):
        call_of(pool, alice.token, at, model=f"lab/m{number:02}", credits=number + 1)
    series = get(alice, "/usage/series", split="model", start="2026-05-04", end="2026-05-05")
    parts = series["usage"][0]["parts"]
    assert [part["key"] for part in parts] == [*(f"lab/m{number:02}" for number in range(22, 2, -1)), None]
    assert parts[-1]["name"] == "Other"
    assert (parts[-1]["requests"], parts[-1]["credits"]) == (3, 6)
    assert sum(part["credits"] for part in parts) == series["total_credits"]


@pytest.mark.parametrize(
    "path", ["/usage", "/usage/summary", "/usage/series", "/usage/export", "/orgs/x/usage"]
)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tz", "Mars/Olympus"),
        ("tz", "../etc/passwd"),
        ("from", "yesterday"),
        ("from", "2026-02-30"),
        ("from", "2026-03-01T25:00"),
        ("from", "0001-01-01T00:00:00+23:59"),
        ("to", "9999-12-31T23:59:59-23:59"),
        ("to", "1999-12-31"),
        ("from", "2099-01-01"),
        ("from", "\0"),
        ("model", "a\0b"),
        ("provider", "x" * 501),
        ("type", "telepathy"),
        ("api_key_id", "key_\0"),
    ],
)
def test_wrong_parameters_are_refused(acme: Org, alice: Person, path: str, name: str, value: str) -> None:
    body = (
        get(alice, path.replace("x", acme.slug), 422, **{name: value})
        if path == "/orgs/x/usage"
        else get(alice, path, 422, **{name: value})
    )
    assert body["error"]["code"] == "validation_error"
    assert f"'{name}'" in body["error"]["message"]


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("/usage", {"scope": "all"}),
        ("/usage", {"org_id": "acme"}),
        ("/usage", {"limit": "0"}),
        ("/usage", {"limit": "101"}),
        ("/usage", {"limit": "²"}),
        ("/usage", {"cursor": "x"}),
        ("/usage", {"cursor": "0001-01-01T00:00:00+23:59~x"}),
        ("/usage/export", {"format": "xml"}),
        ("/usage/series", {"group_by": "year"}),
        ("/usage/series", {"split": "team"}),
        ("/usage/series", {"group_by": "hour", "from": "2026-01-01", "to": "2026-03-01"}),
        ("/usage/series", {"group_by": "day", "from": "2020-01-01", "to": "2026-03-01"}),
    ],
)
def test_wrong_choices_are_refused(alice: Person, path: str, query: dict[str, str]) -> None:
    assert get(alice, path, 422, **query)["error"]["code"] == "validation_error"


def test_who_calls_is_checked_before_what_they_sent(app: Any, alice: Person, anonymous: Person) -> None:
    assert alice.user
    chat = with_key(alice, factories.api_key(alice.user, permissions=["inference:chat"]))
    for path in ("/usage", "/usage/summary", "/usage/series", "/usage/export", "/usage/x", "/orgs/x/usage"):
        assert get(anonymous, path, 401, tz="x")["error"]["code"] == "invalid_api_key"
        assert get(chat, path, 403, tz="x")["error"]["code"] == "insufficient_permissions"
    assert get(anonymous, "/api-keys/x/usage", 401)["error"]["code"] == "invalid_api_key"


def test_usage_is_neither_created_nor_deleted(session: Session, pool: Pool, alice: Person) -> None:
    id = call_of(pool, alice.token, datetime(2026, 5, 4, tzinfo=UTC))
    for method, path in (
        ("DELETE", "/usage"),
        ("DELETE", f"/usage/{id}"),
        ("POST", f"/usage/{id}"),
        ("PUT", f"/usage/{id}"),
        ("POST", "/usage/summary"),
        ("POST", "/usage/series"),
        ("POST", "/usage/export"),
    ):
        answer = alice.browser.open(f"/api/v1{path}", method=method, json={}, headers=alice.headers)
        assert (answer.status_code, answer.json["error"]["code"]) == (405, "method_not_allowed"), path
    # the balance of the Codebuff command line
    row = {"fingerprintId": "f", "model": "m", "tokensIn": 5, "cost": -5}
    assert (
        alice.browser.post("/api/v1/usage", json=row, headers=alice.headers).json["type"] == "usage-response"
    )
    assert len(all_rows(alice, **WHOLE)) == 1


def test_an_account_without_usage_has_zeros(alice: Person) -> None:
    series = get(alice, "/usage/series", tz="Europe/Berlin", split="key")
    assert len(series["usage"]) == 30
    assert {day["tokens"] for day in series["usage"]} == {0}
    assert get(alice, "/usage/summary")["totals"]["cost"] == "0"
    assert get(alice, "/usage/series", start="2026-05-04", end="2026-05-04")["usage"] == []


def test_a_day_that_the_clock_skipped_is_empty_and_longest_ranges_are_bounded() -> None:
    apia = ZoneInfo("Pacific/Apia")
    window = UsageWindow(datetime(2011, 12, 28, tzinfo=UTC), datetime(2012, 1, 2, tzinfo=UTC), apia)
    starts = [start for _, start in window.columns("day")]
    assert starts == sorted(starts)
    assert [part.start for part in window.parts(starts, None)] == sorted(
        part.start for part in window.parts(starts, None)
    )
    spans = [(part.start, part.end) for part in window.parts(starts, None)]
    assert spans[0][0] == window.start
    assert spans[-1][1] == window.end
    assert all(before[1] == after[0] for before, after in pairwise(spans))
    longest = UsageWindow(
        datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=800)
    )
    assert len(longest.columns("day")) == MOST_COLUMNS
    assert date.fromisoformat(longest.columns("month")[-1][0]) == date(2028, 3, 1)
