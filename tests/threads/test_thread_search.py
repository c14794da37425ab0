"""Search in one's own threads: by names and texts, with snippets, page by page."""

from typing import Any

import pytest
from sqlalchemy import event, text

from models.core.db import db
from models.ledger import Account
from models.threads import append, create_thread
from models.threads.thread_listing import ThreadFilter, snippet, threads_page
from tests.factories import Person
from tests.threads.thread_calls import Caller


def names(call: Caller, q: str, **query: Any) -> list[str]:
    return [row["name"] for row in call("get", "/threads", q=q, **query)[1]["data"]]


def test_names_and_texts_are_searched(call: Caller, stranger: Caller) -> None:
    trip = call.made(name="A trip to Oslo")["id"]
    call.said(trip, "Where is the fjord?")
    call.said(trip, "There is a fjord near the opera.", role="assistant")
    soup = call.made(name="Soup 100%")["id"]
    call.said(soup, "Carrots, and a fjord of butter. See https://example.org/soup")
    theirs = stranger.made(name="A fjord")["id"]
    stranger.said(theirs, "fjord opera carrots")
    both = ["Soup 100%", "A trip to Oslo"]
    for q, found in {
        "fjord": both,
        "FJORD": both,
        "fjo": [],
        "fjord opera": ["A trip to Oslo"],  # in one message, the newest
        "butter opera": [],
        '"the opera"': ["A trip to Oslo"],
        '"opera the"': [],
        "fjord -butter": ["A trip to Oslo"],
        "carrots or opera": both,
        "oslo": ["A trip to Oslo"],
        "trip to": ["A trip to Oslo"],
        "100%": ["Soup 100%"],
        "%": ["Soup 100%"],
        "_": [],
        "example.org": ["Soup 100%"],
        "''": [],
        "' & | ! ( ) :* \\ <->": [],
        "-": [],
        "nothing": [],
        "   ": both,
    }.items():
        assert names(call, q) == found, q


def test_a_result_says_where_it_was_found(call: Caller) -> None:
    id = call.made(name="x")["id"]
    call.said(id, "fjord, the first")
    last = call.said(id, "word " * 100 + "then a <b>Fjord</b> and a fjord " + "word " * 100)
    call.said(id, "nothing")
    (row,) = call("get", "/threads", q="fjord")[1]["data"]
    assert row["found"]["message_id"] == last["id"]
    pieces = row["found"]["snippet"]
    assert pieces[1::2] == ["Fjord", "fjord"]
    assert pieces[0].startswith("… ")
    assert pieces[0].endswith("then a <b>")
    assert pieces[-1].endswith(" …")
    assert "found" not in call("get", "/threads", q="x")[1]["data"][0]
    assert "found" not in call("get", "/threads")[1]["data"][0]


@pytest.mark.parametrize(
    ("words", "text", "pieces"),
    [
        ("b", "a b c", ["a ", "b", " c"]),
        ("b a", "a b c", ["", "a", " ", "b", " c"]),
        ("x", "a b c", ["a b c"]),
        ("", "a", ["a"]),
        ("b", "", [""]),
        ("é", "café É", ["café ", "É", ""]),
    ],
)
def test_snippets(words: str, text: str, pieces: list[str]) -> None:
    assert snippet(text, words) == pieces


def test_pages_of_a_search_follow_each_other(call: Caller) -> None:
    ids = []
    for number in range(5):
        ids.append(call.made(name=str(number))["id"])
        call.said(ids[-1], "fjord")
        call.made(name="other")
    found, cursor = [], None
    while cursor != "":
        page = call("get", "/threads", q="fjord", limit=2, **({"cursor": cursor} if cursor else {}))[1]
        found += [row["id"] for row in page["data"]]
        cursor = page["next_cursor"] or ""
    assert found == ids[::-1]


def test_the_search_reads_ones_own_messages_only(alice: Person, mallory: Person) -> None:
    """Other people's messages with the word are not even read: the index finds word and owner together."""
    for person, count in ((alice, 3), (mallory, 500)):
        thread = create_thread(person.id, Account(user_id=person.id), name="x")
        for _ in range(count):
            append(thread, role="user", content="fjord")
    db.session.commit()
    db.session.execute(text("ANALYZE thread_message"))
    db.session.execute(text("SET LOCAL enable_seqscan = off"))
    plans: list[str] = []
    connection = db.session.connection()

    def explain(_: Any, cursor: Any, statement: str, parameters: Any, *others: Any) -> None:
        if "hit" in statement:
            rows = connection.connection.execute(f"EXPLAIN (ANALYZE, FORMAT TEXT) {statement}", parameters)  # type: ignore[attr-defined]
            plans.append("\n".join(row[0] for row in rows))

    event.listen(connection, "before_cursor_execute", explain)
    found = threads_page(ThreadFilter(alice.id, alice.id, "fjord"), None, 10)
    event.remove(connection, "before_cursor_execute", explain)
    assert [row.found.message_id for row in found if row.found]
    (plan,) = plans
    line = next(line for line in plan.splitlines() if "idx_thread_message_terms" in line)
    assert "rows=3.00" in line, plan
