"""A ban blocks every route, for every type of credential, until it is lifted."""

import io
import re
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import select, text
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session as OrmSession
from werkzeug.routing import Rule
from werkzeug.test import TestResponse

from models.accounts import LoginLink, Session, User, devices, magic_links
from models.accounts.credentials import Credential
from models.core.audit_log import AuditLog
from models.core.mail import Email
from tests import factories
from tests.accounts.browsing import token_of
from tests.accounts.test_sign_in import open_link, outbox, path_in, request_link
from tests.factories import Person
from views.web.guards import OPEN_TO_SUSPENDED

__all__ = ["outbox"]

COOKIE = "next-auth.session-token"
SUSPENDED = re.compile("suspended", re.IGNORECASE)
CALL = {"model": "stoa/demo", "messages": [{"role": "user", "content": "Hello"}]}

# Bodies that each route would accept from a user who is not banned.
BODIES: dict[str, dict[str, Any]] = {
    "gateway.chat_completions": {"json": CALL},
    "gateway_api.chat_completions": {"json": CALL},
    "gateway_api.token_count": {"json": {"messages": CALL["messages"]}},
    "gateway_searches.web_search": {"json": {"query": "Capital of France?"}},
    "gateway_searches.docs_search": {"json": {"libraryTitle": "react"}},
    "runs_api.agent_runs": {"json": {"action": "START", "agentId": "acme/reviewer@1.0.0"}},
    "runs_api.steps": {"json": {"stepNumber": 7}},
    "usage_api.usage": {"json": {"fingerprintId": "cli-usage"}},
    "accounts_api.create_key": {"json": {"name": "mine"}},
    "accounts.create_key": {"data": {"name": "mine", "days": "30"}},
    "publishers_api.create": {"json": {"id": "another", "name": "Another"}},
    "publishers.create": {"data": {"publisher": "another", "name": "Another"}},
    "publishers_api.edit": {"json": {"name": "Renamed"}},
    "publishers.save": {"data": {"name": "Renamed"}},
    "publishers_api.link": {"json": {"org_id": "some-org"}},
    "store_api.yank": {"json": {"reason": "Broken."}},
    "store_api.deprecate": {"json": {"reason": "Old."}},
    "versions.yank": {"data": {"reason": "Broken."}},
    "versions.deprecate": {"data": {"reason": "Old."}},
    "readme.save": {"data": {"readme": "Text", "seen": ""}},
    "store_api.publish": {"json": {"data": [factories.definition(version="2.0.0")]}},
}

# Model calls: a browser that is signed in is a caller without a key.
WITHOUT_COOKIES = {
    "gateway.chat_completions",
    "gateway_api.chat_completions",
    "gateway_embeddings.embeddings",
    "gateway_audio.speech",
    "gateway_audio.transcriptions",
    "gateway_audio.translations",
    "gateway_images.image_generations",
    "gateway_images.image_edits",
    "gateway_rerank.rerank",
    "gateway_moderations.moderations",
    "gateway_completions.completions",
    "gateway_searches.web_search",
    "gateway_searches.docs_search",
    "gateway_anthropic.messages",
    "gateway_anthropic.count_message_tokens",
    "gateway_responses.responses",
    "gateway_responses.count_response_tokens",
    "gateway_responses.compact",
    "gateway_stored_responses.response",
    "gateway_stored_responses.delete_response",
    "gateway_stored_responses.input_items",
    "gateway_stored_responses.cancel_response",
}


def rules(app: Flask) -> list[tuple[Rule, str]]:
    return [
        (rule, method)
        for rule in app.url_map.iter_rules()
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"})
    ]


@pytest.fixture
def carol(app: Flask, session: OrmSession) -> Person:
    """A banned user with credits, a publisher, an agent and a run."""
    made = factories.person(app, "carol")
    assert made.user is not None
    factories.grant(made.user, 1000)
    publisher = factories.publisher(made.user)
    factories.agent(publisher)
    factories.run(made.user, id="run-of-carol")
    made.user.banned, made.user.banned_reason = True, "Sent spam."
    session.commit()
    return made


def everything(engine: Engine) -> dict[str, str]:
    """Return the content of every table."""
    with engine.connect() as connection:
        tables = connection.scalars(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")).all()
        return {
            table: str(
                connection.scalar(
                    text(f"SELECT md5(string_agg(t::text, '' ORDER BY t::text)) FROM {table} AS t")
                )
            )
            for table in (f'public."{name}"' for name in tables)
        }


def address(rule: Rule) -> str:
    values = {
        "publisher_id": "acme",
        "publisher": "acme",
        "agent_id": "reviewer",
        "agent": "reviewer",
        "version": "1.0.0",
        "before": "1.0.0",
        "after": "1.0.0",
        "run_id": "run-of-carol",
        "number": "1",
        "stop_id": "1",
        "provider": "github",
    }
    return re.sub(
        r"<(?:([^:>]+):)?([^>]+)>",
        lambda found: values.get(found[2], "1" if found[1] == "int" else "x" * 8),
        rule.rule,
    )


def ask(client: FlaskClient, rule: Rule, method: str, **more: Any) -> TestResponse:
    return client.open(address(rule), method=method, **BODIES.get(rule.endpoint, {}), **more)


def as_browser(app: Flask, session: OrmSession, carol: Person) -> tuple[FlaskClient, dict[str, str]]:
    return carol.browser, {}


def as_key(app: Flask, session: OrmSession, carol: Person) -> tuple[FlaskClient, dict[str, str]]:
    return app.test_client(), carol.headers


def as_command_line(app: Flask, session: OrmSession, carol: Person) -> tuple[FlaskClient, dict[str, str]]:
    assert carol.user is not None
    return app.test_client(), {"x-codebuff-api-key": factories.token(carol.user, type="cli")}


@pytest.mark.parametrize("way", [as_browser, as_key, as_command_line])
def test_no_route_does_or_tells_anything(
    app: Flask, session: OrmSession, engine: Engine, carol: Person, way: Callable[..., Any]
) -> None:
    client, headers = way(app, session, carol)
    before = everything(engine)
    wrong = []
    for rule, method in rules(app):
        if rule.endpoint in OPEN_TO_SUSPENDED or (rule.endpoint in WITHOUT_COOKIES and way is as_browser):
            continue
        answer = ask(client, rule, method, headers=headers)
        told = SUSPENDED.search(answer.text)
        if answer.status_code != 403 or not told:
            wrong.append((method, rule.rule, answer.status_code, answer.text[:200]))
    assert not wrong, "\n".join(map(str, wrong))
    assert everything(engine) == before


def test_what_stays_open_shows_a_banned_person_what_strangers_see(
    app: Flask, session: OrmSession, carol: Person, anonymous: Person
) -> None:
    endpoints = {rule.endpoint for rule in app.url_map.iter_rules()}
    assert endpoints >= OPEN_TO_SUSPENDED
    for rule, method in rules(app):
        if rule.endpoint not in OPEN_TO_SUSPENDED or method != "GET":
            continue
        for client, headers in (as_browser(app, session, carol), as_key(app, session, carol)):
            answer, strangers = (
                ask(client, rule, method, headers=headers),
                ask(anonymous.browser, rule, method),
            )
            assert answer.status_code == strangers.status_code, rule.rule
            assert b"carol@example.org" not in answer.data, rule.rule
            answer.close()
            strangers.close()
    assert carol.browser.get("/api/auth/session").json == {}


@pytest.mark.parametrize(
    ("path", "status"),
    [("/profile", 403), ("/runs", 403), ("/publishers", 403), ("/no-such-page", 404), ("/store", 200)],
)
def test_pages_say_why(carol: Person, path: str, status: int) -> None:
    answer = carol.browser.get(path)
    assert answer.status_code == status
    assert ("Sent spam." in answer.text) == (status == 403)
    assert ("Sign out" in answer.text) == (status == 403)
    assert ("operator of localhost:8000" in answer.text) == (status == 403)


def test_a_fragment_gets_the_words_as_a_toast(carol: Person) -> None:
    answer = carol.browser.get("/runs", headers={"HX-Request": "true"})
    assert (answer.status_code, answer.headers["HX-Reswap"]) == (403, "none")
    assert "Sent spam." in answer.text
    assert "<html" not in answer.text


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/v1/me", {"error": "account_suspended"}),
        ("/api/user/profile", {"error": "account_suspended"}),
        ("/api/publishers", {"error": "account_suspended"}),
    ],
)
def test_json_says_it_as_model_calls_do(client: FlaskClient, carol: Person, path: str, body: Any) -> None:
    message = (
        "Your account has been suspended. Reason: Sent spam."
        " Please contact the operator of this server to resolve this."
    )
    assert client.get(path, headers=carol.headers).json == body | {"message": message}


def test_the_openai_door_says_it_in_its_own_form(client: FlaskClient, carol: Person) -> None:
    told = client.get("/v1/models", headers=carol.headers).json
    assert told is not None
    assert told["error"]["code"] == "account_suspended"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/v1/usage", {"fingerprintId": "cli-usage"}),
        ("/api/agents/publish", {"data": [factories.definition(version="2.0.0")]}),
    ],
)
def test_a_key_in_the_body_is_refused_too(
    client: FlaskClient, engine: Engine, carol: Person, path: str, body: dict[str, Any]
) -> None:
    before = everything(engine)
    answer = client.post(path, json=body | {"authToken": carol.token})
    assert (answer.status_code, answer.json["error"]) == (403, "account_suspended")  # type: ignore[index]
    assert everything(engine) == before


def test_an_avatar_is_not_kept(app: Flask, carol: Person) -> None:
    picture = {"avatar": (io.BytesIO(b"picture"), "me.png", "image/png")}
    assert carol.browser.post("/api/upload/avatar", data=picture).status_code == 403


def test_limits_still_count_after_a_banned_caller(carol: Person, alice: Person) -> None:
    from views.web.guards import limiter

    for _ in range(3):
        carol.browser.post("/api/publishers", json={})
    assert not limiter._storage_dead
    assert alice.browser.get("/api/publishers").status_code == 200


# -- signing in ----------------------------------------------------------------------------------------------


def test_a_mailed_link_opens_nothing(
    session: OrmSession, engine: Engine, client: FlaskClient, carol: Person, outbox: list[Email]
) -> None:
    request_link(client, "carol@example.org")
    before = everything(engine)
    answer = open_link(client, path_in(outbox[0]))
    assert answer.status_code == 403
    assert "Sent spam." in answer.text
    assert client.get("/api/auth/session").json == {}
    assert everything(engine) == before


def test_a_command_line_gets_no_token(app: Flask, session: OrmSession, carol: Person) -> None:
    secret, now = app.extensions["settings"].secret_key, factories.now()
    code = devices.issue_code(secret, "fp-carol", now)
    user = session.get_one(User, carol.id)
    user.banned = False
    browser = session.scalars(select(Session).where(Session.user_id == user.id, Session.type == "web")).one()
    assert devices.connect(secret, code, Credential(browser, user), now) is devices.DeviceCodeStatus.DONE
    user.banned = True
    session.commit()
    query = {"fingerprintId": "fp-carol", "fingerprintHash": code.hash, "expiresAt": code.expires_at}
    answer = app.test_client().get("/api/auth/cli/status", query_string=query)
    assert (answer.status_code, answer.json["error"]) == (403, "account_suspended")  # type: ignore[index]


@pytest.mark.parametrize("from_browser", [True, False])
def test_onboard_connects_nothing(app: Flask, session: OrmSession, carol: Person, from_browser: bool) -> None:
    code = devices.issue_code(app.extensions["settings"].secret_key, "fp-carol", factories.now())
    headers = {"User-Agent": "Mozilla/5.0"} if from_browser else {}
    answer = carol.browser.get("/onboard", query_string={"auth_code": code.text}, headers=headers)
    assert answer.status_code == 403
    assert session.scalars(select(Session).where(Session.type == "cli")).all() == []


def test_a_banned_browser_signs_out(session: OrmSession, carol: Person) -> None:
    page = carol.browser.get("/profile")
    answer = carol.browser.post("/api/auth/signout", data={"csrf_token": token_of(page)})
    assert answer.status_code == 303
    assert carol.browser.get_cookie(COOKIE) is None
    assert session.scalars(select(Session).where(Session.type == "web")).all() == []


# -- the commands --------------------------------------------------------------------------------------------


def test_a_ban_holds_at_once_and_is_lifted(app: Flask, session: OrmSession, alice: Person) -> None:
    run = app.test_cli_runner().invoke
    magic_links.issue("alice@example.org", now=factories.now())
    session.commit()
    assert alice.browser.get("/profile").status_code == 200
    banned = run(args=["accounts", "ban", "alice@example.org", "--reason", " Too many\nrefunds. "])
    assert (
        banned.stdout
        == "alice@example.org is now banned. Rejected from now on: 1 browsers, 0 command lines, 1 API keys.\n"
    )
    assert "Too many refunds." in alice.browser.get("/profile").text
    assert session.scalars(select(LoginLink.used_at)).one() is not None
    again = run(args=["accounts", "ban", "alice@example.org"])
    assert again.stdout == "alice@example.org is already banned.\n"
    other = run(args=["accounts", "ban", "alice@example.org", "--reason", "Fraud."])
    assert other.stdout == "alice@example.org was already banned; the reason is updated.\n"
    for command in ("token", "link"):
        made = run(args=["accounts", command, "alice@example.org"])
        assert made.exit_code == 1
        assert "flask accounts unban alice@example.org" in made.output
    assert run(args=["accounts", "unban", "alice@example.org"]).exit_code == 0
    assert alice.browser.get("/api/auth/session").json == {}, "the browser of before must sign in again"
    assert app.test_client().get("/api/v1/me", headers=alice.headers).status_code == 200
    session.expire_all()
    rows = session.scalars(select(AuditLog).where(AuditLog.subject == alice.id).order_by(AuditLog.id)).all()
    assert [row.action for row in rows] == ["user.banned", "user.banned", "user.unbanned"]
    assert rows[0].after == {
        "banned": True,
        "reason": "Too many refunds.",
        "refused": {"web": 1, "cli": 0, "pat": 1},
    }
    assert rows[2].before == {"banned": True, "reason": "Fraud."}
    assert all(row.actor.startswith("cli") for row in rows)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["ban", "nobody@example.org"], "has no account"),
        (["ban", "alice@example.org", "--reason", "x" * 501], "at most 500 characters"),
        (["ban", "alice@example.org", "--reason", "a\x1bb"], "without control characters"),
    ],
)
def test_what_cannot_be_done_is_said(app: Flask, alice: Person, words: list[str], says: str) -> None:
    result = app.test_cli_runner().invoke(args=["accounts", *words])
    assert result.exit_code == 1
    assert says in result.output
