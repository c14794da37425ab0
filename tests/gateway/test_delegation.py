"""Which account pays for a call: that of the key, of the named organisation, of the repository's, or the person's."""

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import delete, update
from sqlalchemy.orm import Session as OrmSession

from models.accounts import Session, User
from models.accounts.credentials import hash_token
from models.core.db import db
from models.core.pool import Pool
from models.core.settings import GATEWAY_POOL
from models.gateway import GatewayCall
from models.ledger import CreditHold, holds
from models.ledger.holds import AdmissionRequest
from models.ledger.ledger_proof import prove
from models.orgs import Org, OrgDomain, OrgMember, OrgRepo, OrgTeam, OrgTeamMember, OrgTeamRepo
from models.orgs.single_sign_on import OrgSsoKey
from models.runs import AgentRun
from models.usage import Message
from tests import factories
from tests.factories import Person

OPENAI, CODEBUFF = "/v1/chat/completions", "/api/v1/chat/completions"
REPO = "https://github.com/acme/site"
CALL: dict[str, Any] = {"model": "stoa/demo", "messages": [{"role": "user", "content": "Say hello."}]}
NONE = "https://github.com/nobody/else"


@pytest.fixture
def rich_acme(session: OrmSession, acme: Org, alice: Person, bob: Person) -> Org:
    """Acme with credits and an active repository; bob has credits too."""
    assert alice.user is not None
    assert bob.user is not None
    factories.grant(alice.user, 900, "organization", org_id=acme.id)
    factories.grant(bob.user, 100)
    factories.save(
        OrgRepo(org_id=acme.id, repo_url=REPO, repo_name="site", repo_owner="acme", approved_by=alice.id)
    )
    return acme


def start(client: FlaskClient, headers: dict[str, str], **keys: Any) -> str:
    body = {"action": "START", "agentId": "helper", **keys}
    return str(client.post("/api/v1/agent-runs", json=body, headers=headers).get_json()["runId"])


def call(client: FlaskClient, headers: dict[str, str], run_id: str | None = None, **metadata: Any) -> Any:
    """A call through the Codebuff door with a run, else through OpenAI's."""
    if run_id is None:
        return client.post(OPENAI, json=CALL, headers=headers)
    return client.post(
        CODEBUFF, json=CALL | {"codebuff_metadata": {"run_id": run_id, **metadata}}, headers=headers
    )


def billed(session: OrmSession) -> tuple[str | None, str | None, str | None]:
    """Who paid for the only message, why, and its repository; the call and the hold agree with it."""
    session.rollback()
    (message,) = session.query(Message)
    (row,) = session.query(GatewayCall)
    assert row.account_id == (message.org_id or message.user_id)
    assert session.query(CreditHold).count() == 0
    assert message.key_id == row.key_id
    assert (message.team_id is None) is (message.org_id is None)
    return message.org_id and "acme", message.paid_by, message.repo_url


HINTS: list[tuple[dict[str, Any], tuple[str | None, str | None, str | None]]] = [
    ({}, (None, None, None)),
    ({"x-stoa-org": "acme"}, ("acme", "named", None)),
    ({"x-stoa-repo": REPO}, ("acme", "repository", REPO)),
    ({"x-stoa-repo": "git@github.com:Acme/Site.git"}, ("acme", "repository", REPO)),
    ({"x-stoa-org": "acme", "x-stoa-repo": NONE}, ("acme", "named", NONE)),
    ({"x-stoa-repo": NONE}, (None, "fallback:no_match", NONE)),
    ({"x-stoa-repo": "https://me:secret@example.org/x"}, (None, "fallback:no_match", None)),
    ({"repo_url": REPO + "/tree/main"}, ("acme", "repository", REPO)),
    ({"repoUrl": REPO}, ("acme", "repository", REPO)),
    ({"orgId": "acme"}, ("acme", "named", None)),
    ({"orgId": 7, "repo_url": ["x"]}, (None, None, None)),
]
"""What a request says, and who pays, why, and for which repository. Other names than headers are the SDK's metadata."""


@pytest.mark.parametrize(
    ("door", "hints", "paid"),
    [(CODEBUFF, *row) for row in HINTS]
    + [(OPENAI, *row) for row in HINTS if all("x-" in name for name in row[0])],
)
def test_personal_key_lets_the_organisation_pay(
    client: FlaskClient,
    session: OrmSession,
    bob: Person,
    rich_acme: Org,
    door: str,
    hints: dict[str, Any],
    paid: Any,
) -> None:
    headers = bob.headers | {name: value for name, value in hints.items() if name.startswith("x-")}
    metadata = {name: value for name, value in hints.items() if not name.startswith("x-")}
    run_id = start(client, bob.headers) if door == CODEBUFF else None
    assert call(client, headers, run_id, **metadata).status_code == 200
    assert billed(session) == paid
    if run_id:
        # a run belongs to the account that paid for its first call
        assert session.get_one(AgentRun, run_id).org_id == (rich_acme.id if paid[0] else None)
    assert prove().clean


@pytest.mark.parametrize("by", ["id", "slug"])
@pytest.mark.parametrize(
    ("role", "status", "code"),
    [
        ("owner", 200, None),
        ("admin", 200, None),
        ("member", 200, None),
        ("billing", 403, "org_role"),
        ("viewer", 403, "org_role"),
        (None, 404, "org_not_found"),
    ],
)
def test_naming_an_organisation_never_falls_back(
    client: FlaskClient,
    session: OrmSession,
    bob: Person,
    rich_acme: Org,
    by: str,
    role: str | None,
    status: int,
    code: str | None,
) -> None:
    membership = OrgMember.org_id == rich_acme.id, OrgMember.user_id == bob.id
    session.execute(
        update(OrgMember).where(*membership).values(role=role)
        if role
        else delete(OrgMember).where(*membership)
    )
    session.commit()
    run_id = start(client, bob.headers)
    name = getattr(rich_acme, by)
    for answer in (
        call(client, bob.headers | {"x-stoa-org": name}),
        call(client, bob.headers, run_id, orgId=name),
        client.post(
            "/api/v1/agent-runs", json={"action": "START", "agentId": "x", "orgId": name}, headers=bob.headers
        ),
    ):
        assert answer.status_code == status, answer.text
        if code and "chat" in answer.request.path:
            assert answer.get_json()["error"]["code"] == code
    if code:
        assert session.query(GatewayCall).count() == 0
    else:
        assert {row.account_id for row in session.query(GatewayCall)} == {rich_acme.id}


def test_named_organisation_without_credits_refuses(client: FlaskClient, bob: Person, acme: Org) -> None:
    assert bob.user is not None
    factories.grant(bob.user, 100)
    assert call(client, bob.headers | {"x-stoa-org": "acme"}).status_code == 402


Change = Callable[[OrmSession, Org, str], Any]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda s, org, bob: s.execute(update(OrgRepo).values(is_active=False)), "no_match"),
        (lambda s, org, bob: s.execute(update(Org).values(deleted_at=factories.now())), "no_match"),
        (lambda s, org, bob: s.execute(delete(OrgMember).where(OrgMember.user_id == bob)), "no_match"),
        (
            lambda s, org, bob: s.execute(
                update(OrgMember).where(OrgMember.user_id == bob).values(role="viewer")
            ),
            "role",
        ),
        (lambda s, org, bob: s.execute(update(OrgTeam).values(repositories_only=True)), "team"),
        (lambda s, org, bob: holds_all(org), None),
        (lambda s, org, bob: spend_all(org), "out_of_credits"),
    ],
)
def test_repository_falls_back_to_the_person_and_says_why(
    client: FlaskClient,
    session: OrmSession,
    bob: Person,
    mallory: Person,
    rich_acme: Org,
    change: Change,
    reason: str | None,
) -> None:
    run_id = start(client, bob.headers, repoUrl=REPO)
    assert session.get_one(AgentRun, run_id).org_id == rich_acme.id
    change(session, rich_acme, bob.id)
    session.commit()
    answer = call(client, bob.headers, run_id)
    if reason is None:
        # its calls in flight hold the credits: the next call waits, and is not charged to the person
        assert answer.status_code == 429
        return
    assert answer.status_code == 200, answer.text
    assert billed(session) == (None, f"fallback:{reason}", REPO)
    # the run is the organisation's, the call is the person's
    request = session.query(GatewayCall).one().request_id
    for url in (f"/calls/{request}", f"/runs/{run_id}/calls/{request}"):
        page = bob.browser.get(url)
        assert page.status_code == 200
        assert "the person: " in page.text
    assert bob.browser.get(f"/runs/{run_id}").status_code == 404
    assert mallory.browser.get(f"/runs/{run_id}/calls/{request}").status_code == 404


def spend_all(org: Org) -> None:
    owner = db.session.get_one(User, org.owner_id)
    factories.grant(owner, 900, "organization", balance=-900, org_id=org.id)


def holds_all(org: Org) -> None:
    factories.save(
        CreditHold(
            request_id="busy",
            account_id=org.id,
            user_id=org.owner_id,
            amount=900,
            model="m",
            door="openai",
            worker="w",
            expires_at=factories.now() + timedelta(minutes=5),
        )
    )


def test_repository_without_credits_anywhere_names_the_organisation(
    client: FlaskClient, session: OrmSession, bob: Person, rich_acme: Org
) -> None:
    assert bob.user is not None
    spend_all(rich_acme)
    factories.grant(bob.user, 700, balance=-700)
    answer = call(client, bob.headers | {"x-stoa-repo": REPO})
    assert answer.status_code == 402
    assert "Acme, which pays for this repository, is out of credits too." in answer.text


def test_enforced_single_sign_on_asks_for_authorised_personal_keys(
    client: FlaskClient, session: OrmSession, alice: Person, bob: Person, rich_acme: Org
) -> None:
    """A call that names the organisation is refused with the way; one for a repository falls back to the person."""
    assert bob.user is not None
    rich_acme.sso_enforced_at = factories.now()
    session.commit()
    named, repository = bob.headers | {"x-stoa-org": "acme"}, bob.headers | {"x-stoa-repo": REPO}
    refused = call(client, named)
    assert (refused.status_code, refused.json["error"]["code"]) == (403, "org_sso")
    assert "/orgs/acme/personal-keys" in refused.json["error"]["message"]
    body = {"action": "START", "agentId": "helper", "orgId": "acme"}
    assert client.post("/api/v1/agent-runs", json=body, headers=bob.headers).status_code == 403
    assert call(client, repository).status_code == 200
    assert billed(session)[:2] == (None, "fallback:sso")
    organisation = {"authorization": f"Bearer {factories.token(bob.user, org_id=rich_acme.id)}"}
    assert call(client, organisation).status_code == 200
    # authorised, or where nobody could come through the identity provider
    authorised = OrgSsoKey(session_token=hash_token(bob.token), org_id=rich_acme.id, user_id=bob.id)
    paused = OrgDomain(
        org_id=rich_acme.id,
        domain="example.org",
        token="t",
        verified_at=factories.now(),
        paused_at=factories.now(),
    )
    for row in (authorised, paused):
        factories.save(row)
        session.commit()
        assert call(client, named).status_code == 200
        assert client.post("/api/v1/agent-runs", json=body, headers=bob.headers).status_code == 200
        session.delete(row)
        session.commit()
        assert call(client, named).status_code == 403
    # it ends with the membership
    factories.save(OrgSsoKey(session_token=hash_token(bob.token), org_id=rich_acme.id, user_id=bob.id))
    session.execute(delete(OrgMember).where(OrgMember.user_id == bob.id))
    session.commit()
    assert session.query(OrgSsoKey).count() == 0


def test_run_of_an_organisation_is_written_by_the_personal_key_that_started_it(
    client: FlaskClient, session: OrmSession, bob: Person, rich_acme: Org
) -> None:
    root = start(client, bob.headers, repoUrl=REPO)
    child = start(client, bob.headers, ancestorRunIds=[root])
    run = session.get_one(AgentRun, child)
    assert (run.org_id, run.paid_by, run.repo_url) == (rich_acme.id, "repository", REPO)
    steps = f"/api/v1/agent-runs/{child}/steps"
    assert client.post(steps, json={"stepNumber": 1}, headers=bob.headers).status_code == 200
    finish = {
        "action": "FINISH",
        "runId": child,
        "status": "completed",
        "totalSteps": 1,
        "directCredits": 0,
        "totalCredits": 0,
    }
    assert client.post("/api/v1/agent-runs", json=finish, headers=bob.headers).status_code == 200
    session.rollback()
    assert session.get_one(AgentRun, child).status == "completed"
    session.execute(delete(OrgMember).where(OrgMember.user_id == bob.id))
    session.commit()
    assert client.post(steps, json={"stepNumber": 2}, headers=bob.headers).status_code == 403


def test_key_of_an_organisation(
    client: FlaskClient, session: OrmSession, bob: Person, rich_acme: Org
) -> None:
    assert bob.user is not None
    token = factories.token(bob.user, org_id=rich_acme.id)
    headers = {"authorization": f"Bearer {token}"}
    other = factories.org(bob.user, "Other")
    assert call(client, headers | {"x-stoa-org": "acme", "x-stoa-repo": REPO}).status_code == 200
    assert billed(session) == ("acme", "key", REPO)
    address = f"/orgs/acme/calls/{session.query(GatewayCall).one().request_id}"
    page = bob.browser.get(address, follow_redirects=True)
    assert "the organisation of the key" in page.text
    assert "github.com/acme/site" in page.text
    refused = call(client, headers | {"x-stoa-org": other.slug})
    assert (refused.status_code, refused.get_json()["error"]["code"]) == (403, "org_conflict")
    session.execute(
        update(OrgMember)
        .where(OrgMember.user_id == bob.id, OrgMember.org_id == rich_acme.id)
        .values(role="viewer")
    )
    session.commit()
    assert call(client, headers).status_code == 403
    session.execute(update(Session).values(disabled_at=factories.now()))
    session.commit()
    assert call(client, headers).status_code == 401
    assert client.get("/v1/models", headers=headers).status_code == 401


@pytest.mark.parametrize(
    ("models", "status"),
    [(None, 200), (["stoa/*"], 200), (["STOA/Demo", "x"], 200), (["openai/*"], 403), ([], 403)],
)
@pytest.mark.parametrize("hint", [{"x-stoa-org": "acme"}, {"x-stoa-repo": REPO}])
def test_team_narrows_the_models(
    client: FlaskClient,
    session: OrmSession,
    bob: Person,
    rich_acme: Org,
    hint: dict[str, str],
    models: list[str] | None,
    status: int,
) -> None:
    team = factories.save(OrgTeam(org_id=rich_acme.id, name="Web", models=models))
    factories.save(OrgTeamMember(team_id=team.id, org_id=rich_acme.id, user_id=bob.id))
    answer = call(client, bob.headers | hint)
    assert answer.status_code == status
    if status == 200:
        assert session.query(Message).one().team_id == team.id
    else:
        assert "The team 'Web' of Acme may not use the model 'stoa/demo'." in answer.text


def test_team_narrows_the_repositories(
    client: FlaskClient, session: OrmSession, bob: Person, rich_acme: Org
) -> None:
    team = factories.save(OrgTeam(org_id=rich_acme.id, name="Web", repositories_only=True))
    factories.save(OrgTeamMember(team_id=team.id, org_id=rich_acme.id, user_id=bob.id))
    named = bob.headers | {"x-stoa-org": "acme"}
    assert call(client, named).get_json()["error"]["code"] == "team_repository"
    assert call(client, named | {"x-stoa-repo": REPO}).status_code == 403
    repo = session.query(OrgRepo).one()
    factories.save(OrgTeamRepo(team_id=team.id, repo_id=repo.id))
    assert call(client, named | {"x-stoa-repo": REPO}).status_code == 200
    assert call(client, named).status_code == 403


def test_admissions_of_both_kinds_in_parallel_do_not_deadlock(
    app: Flask, session: OrmSession, bob: Person, rich_acme: Org, postgres_url: str
) -> None:
    """Single and grouped admissions that may fall back lock the two accounts in one order."""
    assert bob.user is not None
    bob_key = hash_token(bob.token)
    pool = Pool(app.config["SQLALCHEMY_DATABASE_URI"], GATEWAY_POOL)

    def request(n: int, **keys: Any) -> AdmissionRequest:
        return AdmissionRequest(token_hash=bob_key, request_id=f"{threading.get_ident()}-{n}", hold=1, **keys)

    errors: list[BaseException] = []

    def work(grouped: bool) -> None:
        try:
            for n in range(0, 60, 3):
                batch = [request(n), request(n + 1, repo_url=REPO), request(n + 2, org="acme")]
                if grouped:
                    holds.admit_many(pool, batch, timeout_seconds=0)
                else:
                    for each in batch:
                        holds.admit(pool, each, timeout_seconds=0)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(bool(number % 2),)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pool.close()
    assert not errors
    accounts = [hold.account_id for hold in session.query(CreditHold)]
    assert accounts.count(rich_acme.id) == 160
