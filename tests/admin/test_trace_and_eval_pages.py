"""The operators' pages of traces and evaluations, and the links of their audit log."""

from datetime import timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session as OrmSession

from models.accounts.users import User
from models.admin.git_evals import GitEvalResults, record_eval
from models.admin.relabels import store_relabel
from models.core.audit_log import AuditLog, record
from models.core.db import db
from models.gateway import GatewayCall
from models.orgs import Org
from models.usage import Message
from tests import factories
from tests.admin.test_accounts import post
from tests.factories import Person


def result(agent: str = "base2", **metadata: object) -> str:
    made = record_eval(
        cost_mode="normal", reasoner_model=None, agent_model=agent, metadata=metadata or None, cost=3
    )
    db.session.commit()
    return made.id


@pytest.fixture
def trace(session: OrmSession, alice: Person) -> str:
    """A run of alice with 30 messages in a session of a client."""
    user = session.get_one(User, alice.id)
    with factories.one_commit():
        run = factories.run(user, "codebuff/base@1.0.0", tags=["nightly"])
        for number in range(30):
            made = factories.message(
                user,
                client_id="laptop",
                client_request_id=run.id,
                agent_id=run.agent_id,
                request=[{"role": "user", "content": f"Prompt {number:02}"}],
                response=f"Answer {number:02}",
                finished_at=factories.now() - timedelta(seconds=100 - number),
            )
            factories.call(user, message=made, run_id=run.id)
        factories.message(user, client_request_id="unrecorded", response="Alone")
    return run.id


def test_operators_and_auditors_read_the_pages_and_nobody_else(
    session: OrmSession,
    root: Person,
    auditor: Person,
    alice: Person,
    mallory: Person,
    anonymous: Person,
    trace: str,
) -> None:
    first, second = result(avgScore=1), result(avgScore=2)
    for method, path, operator, reader in (
        ("GET", "/admin/traces", 200, 200),
        ("GET", f"/admin/traces?q={'x' * 321}", 422, 422),
        ("GET", f"/admin/traces/runs/{trace}", 200, 200),
        ("GET", f"/admin/traces/runs/{trace}?after=nobody", 400, 400),
        ("GET", "/admin/traces/runs/unrecorded", 200, 200),
        ("GET", "/admin/traces/runs/nobody", 404, 404),
        ("GET", "/admin/traces/runs/a%00b", 404, 404),
        ("GET", "/admin/traces/clients/laptop", 200, 200),
        ("GET", "/admin/traces/clients/a%00b", 404, 404),
        ("GET", "/admin/relabels", 200, 200),
        ("GET", f"/admin/relabels?user={alice.id}", 200, 200),
        ("GET", "/admin/relabels?user=a%00b", 200, 200),
        ("GET", "/admin/file-picker?user=x", 302, 302),
        ("GET", "/admin/orgs", 200, 200),
        ("GET", "/admin/orgs?q=a%00&status=x", 200, 200),
        ("GET", "/admin/orgs?after=nobody", 400, 400),
        ("GET", "/admin/evals", 200, 200),
        ("GET", "/admin/evals?agent=a%00b&metric=x&by=y&before=%00", 200, 200),
        ("GET", f"/admin/evals/{first}", 200, 200),
        ("GET", "/admin/evals/nobody", 404, 404),
        ("GET", "/admin/evals/a%00b", 404, 404),
        ("GET", f"/admin/evals/comparison?id={first}&id={second}", 200, 200),
        ("GET", f"/admin/evals/comparison?id={first}", 422, 422),
        ("GET", f"/admin/evals/comparison?id={first}&id=nobody", 404, 404),
        ("POST", f"/admin/evals/{first}/visibility", 303, 403),
        ("POST", "/admin/evals/nobody/visibility", 404, 403),
    ):
        for who, status in (
            (root, operator),
            (auditor, reader),
            (mallory, 403),
            (anonymous, 302 if method == "GET" else 303),
        ):
            answer = who.browser.get(path) if method == "GET" else post(who, path)
            assert answer.status_code == status, (
                method,
                path,
                who.user and who.user.email,
                answer.text[-500:],
            )
            if who is mallory:
                assert "Prompt" not in answer.text


def test_a_trace_is_found_by_run_client_and_call(
    session: OrmSession, root: Person, alice: Person, trace: str
) -> None:
    user = session.get_one(User, alice.id)
    of_run = session.query(GatewayCall).filter_by(run_id=trace).first()
    alone = factories.call(user, error="upstream_failed", state="failed")
    to_run = f"/admin/traces/runs/{trace}"
    for query, found in (
        (trace, to_run),
        ("laptop", "/admin/traces/clients/laptop"),
        (of_run.request_id, to_run),
        (of_run.message_id, to_run),
        (alone.request_id, f"/admin?q={alone.request_id}"),
    ):
        answer = root.browser.get("/admin/traces", query_string={"q": query})
        assert (answer.status_code, answer.headers.get("Location")) == (302, found), query
    assert "Nothing found" in root.browser.get("/admin/traces?q=lap").text
    assert "Never enter a whole key" in root.browser.get(f"/admin/traces?q={alice.token}").text


def test_a_trace_shows_all_messages_in_pages_and_looking_is_logged(
    session: OrmSession, root: Person, alice: Person, trace: str
) -> None:
    page = root.browser.get(f"/admin/traces/runs/{trace}").text
    for words in ("Prompt 00", "Answer 24", "nightly", f"/admin/accounts/{alice.id}", "/clients/laptop"):
        assert words in page, words
    assert 'href="/runs/' not in page.partition("<main")[2]
    assert "Prompt 25" not in page
    more = page.partition('hx-get="/admin/traces/runs/')[2].partition('"')[0]
    later = root.browser.get(f"/admin/traces/runs/{more}", headers={"HX-Request": "true"}).text
    assert "<html" not in later
    assert "Prompt 25" in later
    assert "Load later" not in later
    assert "From the beginning" in root.browser.get(f"/admin/traces/runs/{more}").text
    talk = root.browser.get("/admin/traces/clients/laptop").text
    assert trace in talk
    assert "Answer 00" in talk
    session.rollback()
    seen = [(row.action, row.subject, row.actor) for row in session.query(AuditLog).order_by(AuditLog.id)]
    assert seen == [
        ("trace.viewed", trace, "root@example.org"),
        ("trace.viewed", "laptop", "root@example.org"),
    ]


def test_results_are_charted_compared_and_published(
    session: OrmSession, root: Person, auditor: Person
) -> None:
    assert "No results yet" in root.browser.get("/admin/evals").text
    for score in range(60):
        result("other", suite="codebuff", avgScore=score)
    first = result(suite="codebuff", commit="3f2a91c", avgScore=5, inner={"errorRate": 0.25})
    second = result(suite="codebuff", commit="9d41e07", avgScore=7.5)
    page = root.browser.get("/admin/evals").text
    for words in ("base2", "3f2a91c", "7.5", "Score", "Load more"):
        assert words in page, words
    more = page.partition('hx-get="')[2].partition('"')[0].replace("&amp;", "&")
    rows = root.browser.get(more, headers={"HX-Request": "true"}).text
    assert rows.count("<tr") == 12
    by_commit = root.browser.get("/admin/evals?by=commit&agent=base2&metric=avgScore").text
    assert by_commit.count("9d41e07") >= 2
    assert ">other<" not in by_commit.partition("</form>")[2]
    shown = root.browser.get(f"/admin/evals/{second}").text
    assert f"id={first}&amp;id={second}" in shown
    assert "Publish" in shown
    assert "Publish" not in auditor.browser.get(f"/admin/evals/{second}").text.partition("<main")[2]
    compared = root.browser.get(f"/admin/evals/comparison?id={second}&id={first}").text
    for words in ("+2.5", "Inner, error rate", "0.25"):
        assert words in compared, words
    for public in ("yes", "no"):
        assert post(root, f"/admin/evals/{second}/visibility", {"public": public}).status_code == 303
        session.rollback()
        assert session.get_one(GitEvalResults, second).is_public == (public == "yes")
    assert session.query(AuditLog).filter_by(action="eval.visibility", subject=second).count() == 2


def test_the_audit_log_links_to_what_it_names_while_it_exists(
    session: OrmSession, root: Person, alice: Person, acme: Org
) -> None:
    user, org_id = session.get_one(User, alice.id), acme.id
    run, call, hold = factories.run(user), factories.call(user), factories.hold(user)
    factories.agent(factories.publisher(user, "harbor"), "reviewer")
    purchase, score = "nothing", result()
    expected = {
        alice.id: f"/admin/accounts/{alice.id}",
        "alice@example.org": f"/admin/accounts/{alice.id}",
        org_id: f"/admin/accounts/{org_id}",
        run.id: f"/admin/traces/runs/{run.id}",
        call.request_id: f"/admin/accounts/{alice.id}?call={call.request_id}",
        hold.request_id: f"/admin/accounts/{alice.id}?call={hold.request_id}",
        "harbor/reviewer": "/publishers/harbor/agents/reviewer",
        "harbor/reviewer@1.0.0": "/publishers/harbor/agents/reviewer",
        score: f"/admin/evals/{score}",
        "harbor/gone": None,
        "gone@example.org": None,
        purchase: None,
        "": None,
    }
    for subject in expected:
        record("thing.changed", subject, actor="alice@example.org", actor_id=alice.id, org_id=org_id)
    record("store.taken_down", "harbor", actor="cli:ops")
    job = session.execute(
        text("INSERT INTO procrastinate_jobs (queue_name, task_name) VALUES ('default', 'x') RETURNING id")
    ).scalar_one()
    for id in (str(job), str(job + 1), "9" * 30):
        record("job.retried", id, actor="cli:ops")
    record("team.created", "harbor", actor="gone", actor_id="gone")
    session.commit()
    page = root.browser.get("/admin/audit").text.replace("&amp;", "&")
    for subject, address in expected.items():
        assert (f">{subject}</a></small>" in page) == (address is not None), subject
        assert address is None or f'<a href="{address}">{subject}</a>' in page, subject
    assert f'<a href="/admin/accounts/{alice.id}">alice@example.org</a>' in page
    assert f'<a href="/admin/accounts/{org_id}">acme</a>' in page
    assert '<a href="/publishers/harbor">harbor</a>' in page
    assert f'<a href="/admin/jobs?before={job + 1}">{job}</a>' in page
    assert page.count("/admin/jobs?before=") == 1
    assert "/admin/accounts/gone" not in page
    assert "/admin/accounts/" not in alice.browser.get("/orgs/acme/audit").text


def test_organisations_are_searched_and_filtered_by_balance(
    session: OrmSession, root: Person, alice: Person, acme: Org
) -> None:
    factories.grant(session.get_one(User, alice.id), 300, "organization", org_id=acme.id)
    factories.org(session.get_one(User, alice.id), "100% Rich", slug="rich")
    for query, found in (
        ("", ["acme", "rich"]),
        ("q=AC", ["acme"]),
        ("q=100%25", ["rich"]),
        ("q=1_", []),
        ("status=warning", ["acme"]),
        ("status=critical", ["rich"]),
        ("q=acme&status=healthy", []),
    ):
        page = root.browser.get(f"/admin/orgs?{query}").text
        assert [slug for slug in ("acme", "rich") if f">{slug}</small>" in page] == found, query


def test_relabels_stand_beside_the_answer(
    session: OrmSession, root: Person, alice: Person, trace: str
) -> None:
    newest = session.query(Message).filter_by(client_request_id="unrecorded").one()
    store_relabel(newest.id, "openai/gpt-5", "Newest", request_id="r", by=root.id)
    session.commit()
    page = root.browser.get("/admin/relabels?user=ALICE@example.org").text
    for words in ("Newest", "Alone", "openai/gpt-5", "STOA_RELABEL_MODELS"):
        assert words in page, words
    assert "Nobody found" in root.browser.get("/admin/relabels?user=nobody").text
    assert session.query(AuditLog).filter_by(action="relabels.viewed", subject=alice.id).count() == 1
