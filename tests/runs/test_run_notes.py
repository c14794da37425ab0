"""What people note about runs: score, tags, links that share them; and the list's orders, prompts, tool calls, search, export."""

import json
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session as OrmSession

from models.core.audit_log import AuditLog
from models.gateway import CallBody
from models.orgs import Org
from models.runs import AgentRun, RunShare, history, run_credits
from models.runs.tool_calls import tool_calls_of
from tests import factories
from tests.factories import Person, now
from tests.orgs.forms import send

TOOLS = [
    {"id": "a", "function": {"name": "read_files", "arguments": '{"paths":["key.ts"]}'}},
    {"id": "b", "function": {"name": "run_tests", "arguments": "not JSON"}},
]


def told(
    who: Person, run: AgentRun, seconds: int, credits: int, response: Any, *messages: Any, **kw: Any
) -> str:
    """A call of the run that began so many seconds after it, and took one."""
    body = {"request": list(messages), "response": response, "org_id": run.org_id}
    message = factories.message(who.user, credits, **body)
    begun = run.created_at + timedelta(seconds=seconds)
    times = {"started_at": begun, "finished_at": begun + timedelta(seconds=1), "latency_ms": 1000}
    call = factories.call(who.user, message=message, run_id=run.id, org_id=run.org_id, **(times | kw))
    return str(call.request_id)


@pytest.fixture
def run(alice: Person) -> AgentRun:
    """A finished run: a prompt, two tools, an answer."""
    begun = now() - timedelta(minutes=5)
    run = factories.run(
        alice.user, "acme/reviewer@1.0.0", status="completed", created_at=begun, completed_at=now()
    )
    prompt = {"role": "user", "content": [{"type": "text", "text": 'Is the "cache key" right?'}]}
    called = {"role": "assistant", "tool_calls": TOOLS}
    told(alice, run, 1, 5, called, prompt, request_id="first")
    results = [{"role": "tool", "tool_call_id": key, "content": f"result {key}"} for key in "ab"]
    told(alice, run, 4, 7, "It still includes the Model.", prompt, called, *results, request_id="second")
    return run


# -- who may change what -------------------------------------------------------------------------------------


CHANGES = [
    ("score", {"score": "1"}, "run.scored"),
    ("tags", {"tags": "nightly"}, "run.tagged"),
    ("shares", {"lifetime": "week"}, "run.shared"),
]
MAY = {"alice": 303, "carol": 303, "bob": 303, "viewer": 404, "dave": 403, "mallory": 404, "anonymous": 303}


@pytest.mark.parametrize("owner", ["bob", "alice"])
def test_owners_and_admins_note_all_runs_and_members_their_own(
    session: OrmSession, acme: Org, cast: dict[str, Person], app: Any, owner: str
) -> None:
    viewer = factories.person(app, "viewer")
    factories.join(acme, viewer.id, "viewer")
    people = {**cast, "viewer": viewer}
    run = factories.run(people[owner].user, org_id=acme.id)
    share = factories.save(RunShare(run_id=run.id, token_hash="x", with_messages=False))
    for name, who in people.items():
        expected = 404 if name == "bob" and owner != "bob" else MAY[name]
        for path, form, action in CHANGES:
            before = len(session.scalars(select(AuditLog.id).where(AuditLog.action == action)).all())
            answer = send(who, f"/orgs/{acme.slug}/runs/{run.id}/{path}", **form)
            assert answer.status_code == expected, (name, path)
            after = session.scalars(select(AuditLog.org_id).where(AuditLog.action == action)).all()
            assert set(after[before:]) <= {acme.id}
            session.refresh(run)
            run.score = run.tags = None
            session.commit()
        revoke = f"/orgs/{acme.slug}/runs/{run.id}/shares/{share.id}/revoke"
        assert send(who, revoke).status_code == expected, name
        session.refresh(share)
        share.revoked_at = None
        session.commit()


def test_keys_score_and_tag_the_runs_of_their_account(
    session: OrmSession, alice: Person, mallory: Person, anonymous: Person, run: AgentRun
) -> None:
    address = f"/api/v1/runs/{run.id}"

    def patch(who: Person, body: Any, path: str = address) -> Any:
        return who.browser.patch(path, json=body, headers=who.headers)

    assert patch(anonymous, {"score": 7}).status_code == 401
    assert patch(mallory, {"score": 7}).status_code == 404
    for bad in (
        {"score": 0}, {"score": "1"}, {"score": 10**30}, {"tags": "x"}, {"tags": ["x" * 65]}, {"tags": [1]},
        {"tags": ["x"] * 21}, {"tags": ["\x00"]}, {"tags": ["a\u202eb"]}, {"tags": None}, [], None,
    ):  # fmt: skip
        assert 400 <= patch(alice, bad).status_code < 500, bad
    for path in ("/api/v1/runs/nope", "/api/v1/runs/%00"):
        assert patch(alice, {"score": 1}, path).status_code == 404
    answer = patch(alice, {"score": -1, "tags": [" nightly ", "pr  7", "nightly"]})
    assert answer.get_json() == {"runId": run.id, "score": -1, "tags": ["nightly", "pr 7"]}
    assert patch(alice, {}).get_json()["score"] == -1
    assert patch(alice, {"score": None}).get_json() == {"runId": run.id, "score": None, "tags": ["nightly", "pr 7"]}  # fmt: skip
    assert len(session.scalars(select(AuditLog).where(AuditLog.action == "run.changed")).all()) == 2


def test_start_takes_tags_from_metadata_and_nothing_else(session: OrmSession, alice: Person) -> None:
    for metadata, tags in (
        ({"tags": ["a", " b ", 1, "", "x" * 65, "a"]}, ["a", "b"]), ({"tags": "a, b"}, ["a", "b"]), ("text", None), (None, None),
        ({"tags": [str(n) for n in range(30)]}, [str(n) for n in range(20)]),
    ):  # fmt: skip
        body = {"action": "START", "agentId": "local", "metadata": metadata}
        answer = alice.browser.post("/api/v1/agent-runs", json=body, headers=alice.headers)
        assert answer.status_code == 200, metadata
        assert session.get_one(AgentRun, answer.get_json()["runId"]).tags == tags


def test_a_bad_form_says_what_is_wrong(session: OrmSession, alice: Person, run: AgentRun) -> None:
    for path, form, status in (
        ("score", {"score": "7"}, 422), ("tags", {"tags": "x" * 65}, 422), ("tags", {"tags": "x\x00"}, 303),
        ("tags", {"tags": ",".join(map(str, range(21)))}, 422), ("shares", {"lifetime": "eternity"}, 422),
        ("shares", {}, 422), ("shares/nope/revoke", {}, 404), ("shares/%00/revoke", {}, 404),
    ):  # fmt: skip
        assert send(alice, f"/runs/{run.id}/{path}", **form).status_code == status, (path, form)
    for query in ("sort=best", "tag=" + "x" * 65, "sort=dearest&after=bad", "after=x&sort=longest"):
        assert 400 <= alice.browser.get(f"/runs?{query}").status_code < 500, query
    assert alice.browser.get(f"/runs/{run.id}/search?q={'x' * 201}").status_code == 422


# -- the life of a link --------------------------------------------------------------------------------------


def test_a_link_shows_one_run_until_it_is_revoked_or_expires(
    session: OrmSession, alice: Person, anonymous: Person, run: AgentRun
) -> None:
    other = factories.run(alice.user, "acme/secret@1.0.0")
    child = factories.run(alice.user, "acme/helper@1.0.0", parent=run, completed_at=now())
    token = "x"
    for path in (token, "%00", "x" * 5000, "../runs"):
        assert anonymous.browser.get(f"/shared/{path}").status_code == 404
    form = {"lifetime": "day", "form_token": "x" * 20}
    for _ in range(2):  # a double click makes one link
        assert send(alice, f"/runs/{run.id}/shares", **form).status_code == 303
    share = session.scalars(select(RunShare)).one()
    assert share.token not in (share.token_hash, share.id)
    address = f"/shared/{share.token}"
    assert address in alice.browser.get(f"/runs/{run.id}").text
    page = anonymous.browser.get(address)
    assert page.status_code == 200
    assert "noindex" in page.headers["X-Robots-Tag"]
    assert page.headers["Referrer-Policy"] == "no-referrer"
    assert page.headers["Cache-Control"] == "no-store"
    assert "reviewer" in page.text
    assert "helper" in page.text
    for hidden in (
        "cache key",
        "read_files",
        "alice",
        other.id,
        "secret",
        child.id,
        "/runs",
        "cb-pat",
        "acme",
    ):
        assert hidden not in page.text.split("<main")[1], hidden

    with_messages = {"lifetime": "never", "messages": "1"}
    send(alice, f"/runs/{run.id}/shares", **with_messages)
    open_share = session.scalars(select(RunShare).where(RunShare.with_messages)).one()
    page = anonymous.browser.get(f"/shared/{open_share.token}")
    for shown in ("cache key", "read_files", "still includes"):
        assert shown in page.text
    assert "alice" not in page.text

    share.expires_at = now() - timedelta(seconds=1)
    session.commit()
    assert anonymous.browser.get(address).status_code == 404
    send(alice, f"/runs/{run.id}/shares/{open_share.id}/revoke")
    assert anonymous.browser.get(f"/shared/{open_share.token}").status_code == 404
    assert send(alice, f"/runs/{run.id}/shares/{open_share.id}/revoke").status_code == 404
    for _ in range(20):
        send(alice, f"/runs/{run.id}/shares", lifetime="month")
    assert send(alice, f"/runs/{run.id}/shares", lifetime="month").status_code == 409


# -- the list ------------------------------------------------------------------------------------------------


def test_the_list_is_sorted_by_start_credits_and_duration_and_filtered_by_tag(
    session: OrmSession, alice: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = now() - timedelta(days=1)
    for number in range(30):
        at = begun + timedelta(minutes=number)
        ended = {"completed_at": at + timedelta(seconds=100 - number), "status": "completed"}
        tags = ["even"] if number % 2 == 0 else None
        run = factories.run(alice.user, f"agent-{number:02}", created_at=at, tags=tags, **ended)
        told(alice, run, 1, (number * 7) % 30, "x")
        child = factories.run(alice.user, "child", parent=run, created_at=at, **ended)
        told(alice, child, 1, 1, "x")
    running = factories.run(alice.user, "running")
    while run_credits.count_credits(batch=7):
        session.commit()
    session.commit()
    assert run_credits.count_credits() is False  # again: changes nothing
    assert session.get_one(AgentRun, running.id).settled_credits == 0

    def names(query: str) -> list[str]:
        """Over all pages."""
        found: list[str] = []
        href = f"/runs?{query}"
        while href:
            text = alice.browser.get(href).text
            found += [
                part.split("<")[0] for part in text.split("data-panel-link>")[1:] if part.startswith("agent-")
            ]
            more = text.split('data-load-more><a class="btn" href="')
            href = more[1].split('"')[0].replace("&amp;", "&") if len(more) > 1 else ""
        return found

    newest = [f"agent-{number:02}" for number in reversed(range(30))]
    assert names("") == newest
    assert names("sort=longest") == newest[::-1]
    assert names("sort=dearest") == sorted(newest, key=lambda name: -(int(name[6:]) * 7 % 30))
    assert names("tag=even&sort=longest") == newest[::-1][::2]
    for most in (history.MOST_AGENTS, 5):
        monkeypatch.setattr(history, "MOST_AGENTS", most)
        assert names("agent=agent-&sort=dearest") == names("sort=dearest")
        assert names("agent=agent-1&tag=even&sort=longest") == [f"agent-{each}" for each in range(10, 20, 2)]
        assert names("agent=agent-2") == newest[:10]


def test_who_may_not_read_messages_sees_no_prompt(
    session: OrmSession, acme: Org, alice: Person, dave: Person, run: AgentRun
) -> None:
    assert "Is the &#34;cache key&#34; right?" in alice.browser.get("/runs").text
    run.org_id = acme.id
    theirs = factories.run(alice.user, "theirs", org_id=acme.id)
    told(alice, theirs, 1, 2, {"tool_calls": TOOLS}, {"role": "user", "content": "private words"})
    session.commit()
    for path in ("", f"/{theirs.id}"):
        assert "private words" in alice.browser.get(f"/orgs/{acme.slug}/runs{path}").text
        page = dave.browser.get(f"/orgs/{acme.slug}/runs{path}")
        assert page.status_code == 200
        assert "private words" not in page.text
        assert "read_files" not in page.text
    assert dave.browser.get(f"/orgs/{acme.slug}/runs/{theirs.id}/search?q=private").status_code == 403
    assert "private words" not in dave.browser.get(f"/orgs/{acme.slug}/runs/{theirs.id}/export.json").text


# -- messages ------------------------------------------------------------------------------------------------


def test_tool_calls_stand_between_their_model_calls(
    session: OrmSession, alice: Person, mallory: Person, run: AgentRun
) -> None:
    page = alice.browser.get(f"/runs/{run.id}").text
    assert page.index("Tool call: </span>read_files") < page.index("Tool call: </span>run_tests")
    tool = alice.browser.get(f"/runs/{run.id}/calls/first/tools/1").text
    for shown in ("run_tests", "not JSON", "result b", "2.0 s until the next model call"):
        assert shown in tool
    for path in ("calls/first/tools/2", "calls/second/tools/0", "calls/nope/tools/0", "calls/%00/tools/0"):
        assert alice.browser.get(f"/runs/{run.id}/{path}").status_code == 404, path
    assert alice.browser.get("/runs/nope/calls/first/tools/0").status_code == 404
    assert mallory.browser.get(f"/runs/{run.id}/calls/first/tools/0").status_code == 404


@pytest.mark.parametrize(
    "tools",
    [[], {}, "x", [None], [[]], [{"function": 1}], [{"id": 1, "function": {"name": [], "arguments": {"a": [1]}}}],
     [{"function": {"name": " ", "arguments": "[" * 100_000}}], [{"id": "a", "function": {"arguments": None}}]],
)  # fmt: skip
def test_any_shape_of_tool_calls_is_read(session: OrmSession, alice: Person, tools: Any) -> None:
    run = factories.run(alice.user)
    call = told(alice, run, 1, 1, {"tool_calls": tools})
    told(alice, run, 2, 1, "x", "text", 7, {"role": "tool", "tool_call_id": "a", "content": [{"text": 3}]})
    count = len(tools) if isinstance(tools, list) else 0
    assert len(tool_calls_of(alice.account_id, [call]).get(call, [])) == count
    assert alice.browser.get(f"/runs/{run.id}").status_code == 200


def test_search_finds_text_in_prompts_results_and_answers(
    alice: Person, mallory: Person, run: AgentRun
) -> None:
    def hits(query: str) -> int:
        page = alice.browser.get(f"/runs/{run.id}/search", query_string={"q": query})
        assert page.status_code == 200
        return page.text.count("<mark>")

    assert (hits('"CACHE KEY"'), hits("result b"), hits("includes the model"), hits("read_files")) == (
        1,
        1,
        1,
        1,
    )
    assert (hits("nowhere"), hits("%"), hits(""), hits("\\")) == (0, 0, 0, 0)
    assert mallory.browser.get(f"/runs/{run.id}/search?q=model").status_code == 404


def test_the_export_is_whole_and_exact(
    session: OrmSession, alice: Person, mallory: Person, run: AgentRun
) -> None:
    factories.step(run, 1, error_message="why")
    child = factories.run(alice.user, "helper", parent=run)
    for number in range(25):
        told(alice, child, number, 1, {"content": "naïve"}, {"role": "user", "content": str(number)})
    answer = alice.browser.get(f"/runs/{run.id}/export.json")
    assert answer.headers["Content-Disposition"].startswith("attachment")
    whole = json.loads(answer.text)
    assert (whole["run"]["id"], whole["totals"]["credits"], whole["totals"]["costUsd"]) == (
        run.id,
        37,
        "0.37",
    )
    parent, spawned = whole["runs"]
    assert [step["error"] for step in parent["steps"]] == ["why"]
    assert [call["requestId"] for call in parent["calls"]] == ["first", "second"]
    assert parent["calls"][0]["response"]["tool_calls"] == TOOLS
    assert [call["request"][0]["content"] for call in spawned["calls"]] == [str(n) for n in range(25)]
    assert mallory.browser.get(f"/runs/{run.id}/export.json").status_code == 404


def test_a_failure_is_told_once_with_its_call(session: OrmSession, alice: Person) -> None:
    reason = "upstream said: " + "no " * 400 + "capacity"
    run = factories.run(alice.user, status="failed", completed_at=now(), error_message=f"Error: {reason}")
    factories.call(alice.user, run_id=run.id, state="failed", error=reason, request_id="why", credits=0)
    factories.call(alice.user, run_id=run.id, state="failed", error="other", request_id="another", credits=0)
    page = alice.browser.get(f"/runs/{run.id}").text
    assert page.count("capacity</p>") == 1
    assert page.count("Open the failing call") == 2
    assert '/calls/why" data-panel-link>Open' in page


def test_a_run_whose_only_call_failed_shows_its_prompt_and_the_words_of_the_provider(
    session: OrmSession, alice: Person, acme: Org, dave: Person
) -> None:
    run = factories.run(
        alice.user, status="failed", completed_at=now(), org_id=acme.id, error_message="429 limited"
    )
    failed = {"state": "failed", "error": "limited", "credits": 0, "org_id": acme.id}
    call = factories.call(alice.user, run_id=run.id, **failed)
    request = [{"role": "user", "content": "Why is the sky blue?"}]
    words = "429 limited: too many words about the sky"
    factories.save(
        CallBody(request_id=call.request_id, finished_at=now(), request=request, error_message=words)
    )
    for path in ("", f"/{run.id}"):
        assert "Why is the sky blue?" in alice.browser.get(f"/orgs/{acme.slug}/runs{path}").text
        assert "the sky" not in dave.browser.get(f"/orgs/{acme.slug}/runs{path}").text
    page = alice.browser.get(f"/orgs/{acme.slug}/runs/{run.id}").text
    assert page.count(words) == 1
    assert page.count("Open the failing call") == 1


def test_a_run_takes_the_tags_of_its_calls(session: OrmSession, alice: Person) -> None:
    run = factories.run(alice.user, tags=["own"])
    for second, tags in enumerate((["b", "own"], ["a", "b"], [str(n) for n in range(30)])):
        told(alice, run, second, 1, "x", parameters={"tags": tags})
    for _ in range(2):
        run_credits.count_credits()
        session.commit()
    assert run.tags is not None
    assert run.tags[:5] == ["own", "b", "a", "0", "1"]
    assert len(run.tags) == 20
