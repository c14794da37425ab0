"""Sign-in of clients of projects: device codes with one token, sign-in with Google, and keys at providers (fastest contract 2.2-2.6)."""

import re
import time
from collections.abc import Callable
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from flask.testing import FlaskClient
from joserfc import jwt
from joserfc.jwk import RSAKey
from pydantic import SecretStr
from sqlalchemy import delete, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session as OrmSession
from werkzeug.test import TestResponse

from models.accounts import DeviceGrant, Session, User
from models.accounts.device_grants import LETTERS
from models.core.audit_log import AuditLog
from models.core.db import now
from models.gateway import ProviderKey
from models.gateway.account_keys import AccountKeys
from models.gateway.provider_keys import ProviderKeyForm, add_provider_key
from models.orgs import Org
from tests import factories
from tests.factories import Person
from tests.orgs.forms import send
from tests.projects.project_calls import ProjectsApi
from views.accounts.api import google_credentials
from views.web.guards import limiter

DEVICE = "urn:ietf:params:oauth:grant-type:device_code"
FST = {"User-Agent": "fst/0.4.1 (linux)"}
MONTH = 30 * 86400


@pytest.fixture(autouse=True)
def no_limits(client: FlaskClient) -> None:
    limiter.reset()


def set_up(client: FlaskClient, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """Change settings of the application for one test."""
    extensions = client.application.extensions
    monkeypatch.setitem(extensions, "settings", extensions["settings"].model_copy(update=changes))


def start(client: FlaskClient, **more: Any) -> dict[str, Any]:
    answer = client.post("/v1/oauth/device", headers=FST, **more)
    assert (answer.status_code, answer.headers["Cache-Control"]) == (200, "no-store")
    return answer.json or {}


def poll(client: FlaskClient, code: dict[str, Any]) -> TestResponse:
    body = {"grant_type": DEVICE, "device_code": code["device_code"]}
    return client.post("/v1/oauth/token", json=body)


def problem(answer: TestResponse) -> tuple[int, str]:
    """Status and code of an error, flat or in the envelope of the contract."""
    error = (answer.json or {}).get("error", "")
    return answer.status_code, error["code"] if isinstance(error, dict) else error


def approve(client: FlaskClient, person: Person, code: str) -> TestResponse:
    return client.post("/v1/oauth/device/authorize", json={"user_code": code}, headers=person.headers)


def deny(client: FlaskClient, person: Person, code: str) -> TestResponse:
    return client.post("/v1/oauth/device/deny", json={"user_code": code}, headers=person.headers)


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def me(client: FlaskClient, token: str) -> TestResponse:
    return client.get("/v1/auth/me", headers=bearer(token))


def signed_in(client: FlaskClient, person: Person) -> str:
    code = start(client)
    assert approve(client, person, code["user_code"]).status_code == 200
    return str((poll(client, code).json or {})["access_token"])


def sessions(session: OrmSession) -> list[Session]:
    session.expire_all()
    return list(session.scalars(select(Session).where(Session.type == "cli")))


# -- codes ---------------------------------------------------------------------------------------------------


def test_a_client_signs_in_on_the_page(client: FlaskClient, session: OrmSession, alice: Person) -> None:
    code = start(client)
    assert re.fullmatch(rf"[{LETTERS}]{{4}}-\d{{4}}", code["user_code"])
    assert set(code["user_code"][:4]).isdisjoint("IO")
    assert (code["expires_in"], code["interval"]) == (900, 5)
    assert code["verification_uri"] == "http://localhost:8000/device"
    assert code["verification_uri_complete"] == f"http://localhost:8000/device?code={code['user_code']}"
    assert problem(poll(client, code)) == (400, "authorization_pending")
    assert problem(poll(client, code)) == (400, "slow_down")
    page = alice.browser.get(f"/device?code={code['user_code']}").text
    for part in (code["user_code"], "fst 0.4.1", "127.0.0.1", "for 30 days", "Approve", "Refuse"):
        assert part in page
    assert send(alice, "/device", user_code=code["user_code"].lower().replace("-", "")).status_code == 303
    answer = poll(client, code)
    assert answer.headers["Cache-Control"] == "no-store"
    token = (answer.json or {})["access_token"]
    assert answer.json == {
        "access_token": token,
        "token_type": "Bearer",
        "expires_in": MONTH,
        "user": {"id": alice.id, "email": "alice@example.org"},
    }
    assert problem(poll(client, code)) == (400, "invalid_grant")
    who = {"id": alice.id, "email": "alice@example.org", "name": "alice", "picture": None}
    assert me(client, token).json == {"user": who}
    (row,) = sessions(session)
    assert token not in (row.session_token, row.token_hint)
    assert row.parent is not None


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"json": {}},
        {"json": []},
        {"json": {"client_id": 7}},
        {"data": {"client_id": "a\0b"}},
        {"data": b"  "},
    ],
)
def test_a_code_needs_no_body(client: FlaskClient, session: OrmSession, more: dict[str, Any]) -> None:
    start(client, **more)
    assert session.scalars(select(DeviceGrant.client)).all() == ["fst 0.4.1"]


@pytest.mark.parametrize("kind", ["json", "data"])
def test_a_client_may_name_itself_in_json_and_in_a_form(
    client: FlaskClient, session: OrmSession, kind: str
) -> None:
    start(client, **{kind: {"client_id": "my-client/2"}})
    assert session.scalars(select(DeviceGrant.client)).all() == ["my-client 2"]


@pytest.mark.parametrize("body", [b"{", b"[" * 5000, b'{"a":"\\u0000"}', b"\xff"])
def test_bodies_that_are_no_json(client: FlaskClient, body: bytes) -> None:
    assert problem(client.post("/v1/oauth/device", data=body)) == (400, "INVALID_JSON")
    assert problem(client.post("/v1/oauth/token", data=body)) == (400, "invalid_request")


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({}, "unsupported_grant_type"),
        ([], "unsupported_grant_type"),
        ({"grant_type": "refresh_token", "refresh_token": "x"}, "unsupported_grant_type"),
        ({"grant_type": {"a": 1}, "device_code": "x"}, "unsupported_grant_type"),
        ({"grant_type": DEVICE}, "invalid_request"),
        ({"grant_type": DEVICE, "device_code": 7}, "invalid_request"),
        ({"grant_type": DEVICE, "device_code": ""}, "invalid_request"),
        ({"grant_type": DEVICE, "device_code": "unknown"}, "invalid_grant"),
        ({"grant_type": DEVICE, "device_code": "\ud800é"}, "invalid_grant"),
    ],
)
def test_errors_of_the_token_route(client: FlaskClient, body: Any, error: str) -> None:
    assert problem(client.post("/v1/oauth/token", json=body)) == (400, error)


def test_the_token_route_reads_forms(client: FlaskClient, alice: Person) -> None:
    code = start(client)
    approve(client, alice, code["user_code"])
    for device_code, status in (("x\0", 400), (code["device_code"], 200)):
        form = {"grant_type": DEVICE, "device_code": device_code}
        assert client.post("/v1/oauth/token", data=form).status_code == status


def test_codes_belong_to_their_door(client: FlaskClient, alice: Person) -> None:
    ours = start(client)
    form = {"grant_type": DEVICE, "device_code": ours["device_code"]}
    assert problem(client.post("/oauth/token", data=form)) == (400, "invalid_grant")
    other = client.post("/oauth/device_authorization", data={}).json or {}
    assert problem(approve(client, alice, other["user_code"])) == (400, "INVALID_CODE")
    assert deny(client, alice, other["user_code"]).json == {"success": True}
    send(alice, "/device", user_code=other["user_code"])
    assert problem(poll(client, other)) == (400, "invalid_grant")
    form["device_code"] = other["device_code"]
    assert client.post("/oauth/token", data=form).status_code == 200


# -- confirming with a key -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "form", [str, str.lower, lambda code: code.replace("-", ""), lambda code: f" {code} "]
)
def test_a_key_confirms_a_code_in_any_form(
    client: FlaskClient, alice: Person, form: Callable[[str], str]
) -> None:
    code = start(client)
    answer = approve(client, alice, form(code["user_code"]))
    assert (answer.status_code, (answer.json or {})["success"]) == (200, True)
    assert problem(approve(client, alice, code["user_code"])) == (400, "ALREADY_USED")
    assert poll(client, code).status_code == 200
    assert problem(approve(client, alice, code["user_code"])) == (400, "ALREADY_USED")


def test_a_refused_code(client: FlaskClient, session: OrmSession, alice: Person) -> None:
    code = start(client)
    for text in (code["user_code"], code["user_code"], "ABCD-0000"):
        assert deny(client, alice, text).json == {"success": True}
    assert problem(approve(client, alice, code["user_code"])) == (400, "ALREADY_USED")
    assert problem(poll(client, code)) == (400, "access_denied")
    actions = session.scalars(select(AuditLog.action).where(AuditLog.action.like("device.%"))).all()
    assert actions == ["device.refused"]


@pytest.mark.parametrize("confirmed", [False, True])
def test_an_expired_code(client: FlaskClient, session: OrmSession, alice: Person, confirmed: bool) -> None:
    code = start(client)
    if confirmed:
        approve(client, alice, code["user_code"])
    session.execute(update(DeviceGrant).values(expires_at=now()))
    session.commit()
    assert problem(poll(client, code)) == (400, "expired_token")
    reason = "ALREADY_USED" if confirmed else "EXPIRED_CODE"
    assert problem(approve(client, alice, code["user_code"])) == (400, reason)


@pytest.mark.parametrize("path", ["authorize", "deny"])
def test_who_may_confirm_and_refuse(
    client: FlaskClient, alice: Person, mallory: Person, acme: Org, path: str
) -> None:
    assert alice.user
    assert mallory.user
    org_key = factories.token(alice.user, org_id=acme.id)
    scoped = factories.api_key(alice.user, permissions=["keys:write"])
    wrong = factories.api_key(alice.user, permissions=["keys:read"])
    expired = factories.token(alice.user, expires=now() - timedelta(1))
    # anybody with an account confirms codes: for their own account
    cases = [({}, 401), (bearer("unknown"), 401), (bearer(expired), 401), (bearer(wrong), 403)]
    cases += [(bearer(scoped), 403), (bearer(org_key), 403)] if path == "authorize" else []
    cases += [(mallory.headers, 200)]
    code = start(client)
    for headers, status in cases:
        for body in ({"user_code": code["user_code"]}, {} if status != 200 else None):
            if body is not None:
                answer = client.post(f"/v1/oauth/device/{path}", json=body, headers=headers)
                assert answer.status_code == status, (headers, body, answer.text)
    if path == "authorize":
        assert (poll(client, code).json or {})["user"]["id"] == mallory.id


@pytest.mark.parametrize("path", ["authorize", "deny"])
@pytest.mark.parametrize("body", [{}, {"user_code": None}, {"user_code": 7}, {"user_code": "  "}, [], "x"])
def test_a_code_is_needed(client: FlaskClient, alice: Person, path: str, body: Any) -> None:
    answer = client.post(f"/v1/oauth/device/{path}", json=body, headers=alice.headers)
    assert problem(answer) == (422, "VALIDATION_ERROR")


@pytest.mark.parametrize("code", ["ABCD-1234", "é" * 40, "x" * 9999, "-", "%", "ABCD_1234'"])
def test_codes_that_do_not_exist(client: FlaskClient, alice: Person, code: str) -> None:
    assert problem(approve(client, alice, code)) == (400, "INVALID_CODE")


def test_guessing_locks_the_person_out_everywhere(client: FlaskClient, alice: Person, bob: Person) -> None:
    code = start(client)
    page = f"/device?code={code['user_code']}"
    for number in range(5):
        assert approve(client, alice, f"ABCD-{number:04}").status_code == 400
        assert alice.browser.get(f"/device?code=ABCD-{number:04}").status_code == 404
    answer = approve(client, alice, code["user_code"])
    assert problem(answer) == (429, "TOO_MANY_CODES")
    assert int(answer.headers["Retry-After"]) > 0
    assert alice.browser.get(page).status_code == 429
    assert send(alice, "/device", user_code=code["user_code"]).status_code == 429
    assert problem(poll(client, code)) == (400, "authorization_pending")
    # nobody else
    assert bob.browser.get(page).status_code == 200
    assert approve(client, bob, code["user_code"]).status_code == 200


def test_the_limit_of_command_lines_counts_these(
    client: FlaskClient, alice: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_up(client, monkeypatch, stoa_cli_sessions_per_account=1)
    signed_in(client, alice)
    code = start(client)
    assert approve(client, alice, code["user_code"]).status_code == 409
    assert problem(poll(client, code)) in {(400, "authorization_pending"), (400, "slow_down")}


# -- tokens --------------------------------------------------------------------------------------------------


def test_a_token_lasts_thirty_days_however_it_is_used(
    client: FlaskClient, session: OrmSession, alice: Person
) -> None:
    assert alice.user
    forever = Person(alice.id, alice.user, alice.browser, "", bearer(factories.token(alice.user, type="web")))
    token = signed_in(client, forever)
    assert me(client, token).status_code == 200
    (row,) = sessions(session)
    assert row.last_used_at is not None
    assert timedelta(days=30) <= row.expires - now() < timedelta(days=30, minutes=16)
    session.execute(update(Session).where(Session.type == "cli").values(expires=now()))
    session.commit()
    assert problem(me(client, token)) == (401, "UNAUTHORIZED")


def test_other_command_lines_still_slide(client: FlaskClient, session: OrmSession, alice: Person) -> None:
    assert alice.user
    me(client, factories.token(alice.user, type="cli", expires=now() + timedelta(days=2)))
    (row,) = sessions(session)
    assert row.expires - now() > timedelta(days=364)


@pytest.mark.parametrize("type_", ["pat", "cli"])
def test_what_a_credential_confirms_ends_with_it_and_not_later(
    client: FlaskClient, session: OrmSession, alice: Person, bob: Person, type_: str
) -> None:
    assert alice.user
    raw = factories.token(alice.user, type=type_, expires=now() + timedelta(days=40 if type_ == "pat" else 2))
    approver = Person(alice.id, alice.user, alice.browser, raw, bearer(raw))
    first = signed_in(client, approver)
    second = signed_in(client, Person(alice.id, alice.user, alice.browser, first, bearer(first)))
    kept = signed_in(client, bob)
    assert [me(client, each).status_code for each in (first, second, kept)] == [200] * 3
    if type_ == "pat":
        alice.browser.delete(
            "/api/sessions", json={"tokenIds": [raw]}, headers={"Origin": "http://localhost"}
        )
    else:
        session.execute(delete(Session).where(Session.token_hint == raw[-4:], Session.user_id == alice.id))
        session.commit()
    assert [me(client, each).status_code for each in (first, second, kept)] == [401, 401, 200]


def test_a_token_is_not_promised_longer_than_its_key_lives(client: FlaskClient, alice: Person) -> None:
    assert alice.user
    raw = factories.token(alice.user, expires=now() + timedelta(hours=1))
    code = start(client)
    approve(client, Person(alice.id, alice.user, alice.browser, raw, bearer(raw)), code["user_code"])
    assert 3500 < (poll(client, code).json or {})["expires_in"] <= 3600


@pytest.mark.parametrize("way", ["ban", "sign out", "secret"])
def test_a_confirmed_code_that_gives_nothing(
    client: FlaskClient, session: OrmSession, alice: Person, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    code = start(client)
    approve(client, alice, code["user_code"])
    if way == "ban":
        session.execute(update(User).where(User.id == alice.id).values(banned=True))
    elif way == "sign out":
        session.execute(delete(Session).where(Session.type == "cli"))
    else:
        set_up(client, monkeypatch, stoa_secret_key=SecretStr("another-secret" * 3))
    session.commit()
    assert problem(poll(client, code)) == (400, "access_denied")


def test_a_banned_person_confirms_nothing(client: FlaskClient, session: OrmSession, alice: Person) -> None:
    code = start(client)
    session.execute(update(User).where(User.id == alice.id).values(banned=True))
    session.commit()
    assert approve(client, alice, code["user_code"]).status_code == 403
    assert problem(poll(client, code)) == (400, "authorization_pending")


@pytest.mark.parametrize("headers", [{}, bearer("unknown"), {"authorization": "Basic x"}])
def test_nobody_is_signed_in(client: FlaskClient, headers: dict[str, str]) -> None:
    assert problem(client.get("/v1/auth/me", headers=headers)) == (401, "UNAUTHORIZED")
    assert problem(client.get("/v1/auth/me?token=x", headers=headers)) == (401, "UNAUTHORIZED")


def test_the_server_is_up_and_unknown_routes_have_the_envelope(client: FlaskClient) -> None:
    answer = client.get("/health")
    assert (answer.status_code, (answer.json or {})["status"]) == (200, "ok")
    for path in ("/v1/auth/start", "/v1/oauth/nothing", "/v1/auth"):
        assert problem(client.get(path)) == (404, "NOT_FOUND")


def test_a_token_opens_the_projects_of_its_account(client: FlaskClient, alice: Person, bob: Person) -> None:
    token = signed_in(client, alice)
    api = ProjectsApi(client, Person(alice.id, alice.user, alice.browser, token, bearer(token)))
    project = api.project()
    assert ProjectsApi(client, alice)("get", f"/projects/{project}")[0] == 200
    assert ProjectsApi(client, bob)("get", f"/projects/{project}")[0] == 404


# -- Google --------------------------------------------------------------------------------------------------


class Google:
    """Google's keys, and tokens signed with them. `asked` counts requests for the keys."""

    def __init__(self) -> None:
        self.key = RSAKey.generate_key(2048, {"kid": "k1"})
        self.server_metadata: dict[str, Any] = {}
        self.client_id, self.asked, self.broken = "web-client", 0, False

    def fetch_jwk_set(self, force: bool = False) -> Any:
        self.asked += force
        if self.broken:
            raise RuntimeError('Missing "jwks_uri" in metadata')
        return {"keys": [self.key.as_dict(private=False)]}

    def token(self, key: RSAKey | None = None, alg: str = "RS256", kid: str = "k1", **claims: Any) -> str:
        stated = {
            "iss": "https://accounts.google.com",
            "aud": self.client_id,
            "sub": "g-1",
            "email": "Ada@example.org",
            "email_verified": True,
            "name": "Ada",
            "picture": "https://example.org/ada.png",
            "iat": int(time.time()),
            "exp": int(time.time()) + 3600,
        } | claims
        stated = {name: value for name, value in stated.items() if value is not None}
        return jwt.encode({"alg": alg, "kid": kid}, stated, key or self.key, algorithms=[alg])


@pytest.fixture(scope="module")
def signer() -> Google:
    return Google()


@pytest.fixture
def google(client: FlaskClient, signer: Google, monkeypatch: pytest.MonkeyPatch) -> Google:
    """Sign-in with Google is configured."""
    registry = SimpleNamespace(create_client=lambda name: signer)
    monkeypatch.setitem(client.application.extensions, "authlib.integrations.flask_client", registry)
    monkeypatch.setattr(google_credentials, "configured", lambda: [SimpleNamespace(id="google")])
    signer.asked, signer.broken, signer.server_metadata = 0, False, {}
    return signer


def with_google(client: FlaskClient, credential: Any) -> TestResponse:
    return client.post("/v1/auth/google", json={"credential": credential}, headers=FST)


def test_a_token_of_google_signs_in(client: FlaskClient, session: OrmSession, google: Google) -> None:
    answers = [with_google(client, google.token()).json or {} for _ in range(2)]
    (user,) = session.scalars(select(User))
    assert (user.email, user.name, user.image) == ("ada@example.org", "Ada", "https://example.org/ada.png")
    for answer in answers:
        assert answer["user"] == {"id": user.id, "email": "ada@example.org"}
        assert (answer["token_type"], answer["expires_in"]) == ("Bearer", MONTH)
        assert me(client, answer["access_token"]).status_code == 200
    assert [(row.name, row.fixed_expiry) for row in sessions(session)] == [("fst 0.4.1", True)] * 2
    assert google.asked == 1


WRONG: dict[str, Callable[[Google], Any]] = {
    "another audience": lambda google: google.token(aud="another"),
    "two audiences": lambda google: google.token(aud=["web-client", "another"]),
    "no audience": lambda google: google.token(aud=None),
    "another issuer": lambda google: google.token(iss="https://accounts.example.org"),
    "expired": lambda google: google.token(exp=int(time.time()) - 3600),
    "without expiry": lambda google: google.token(exp=None),
    "another key": lambda google: google.token(RSAKey.generate_key(2048)),
    "an unknown key": lambda google: google.token(kid="k2"),
    "a weak algorithm": lambda google: google.token(alg="RS512"),
    "no subject": lambda google: google.token(sub=None),
    "an empty subject": lambda google: google.token(sub=" "),
    "no address": lambda google: google.token(email=None),
    "an unverified address": lambda google: google.token(email_verified=False),
    "a changed token": lambda google: google.token()[:-6],
    "no token": lambda google: "x",
    "dots": lambda google: "..",
    "a long text": lambda google: "x" * 9000,
    "other letters": lambda google: "é.é.é",
}


@pytest.mark.parametrize("what", WRONG)
def test_other_credentials_sign_nobody_in(
    client: FlaskClient, session: OrmSession, google: Google, what: str
) -> None:
    credential = WRONG[what](google)
    assert problem(with_google(client, credential)) == (401, "INVALID_TOKEN")
    code = start(client)
    body = {"user_code": code["user_code"], "credential": credential}
    assert problem(client.post("/v1/oauth/device/authorize", json=body)) == (401, "INVALID_CREDENTIAL")
    assert problem(poll(client, code)) == (400, "authorization_pending")
    assert session.scalars(select(User)).all() == []
    assert google.asked == 1


def test_a_token_of_google_confirms_a_code(client: FlaskClient, session: OrmSession, google: Google) -> None:
    code = start(client)
    body = {"user_code": "ABCD-0000", "credential": google.token()}
    assert problem(client.post("/v1/oauth/device/authorize", json=body)) == (400, "INVALID_CODE")
    assert session.scalars(select(User)).all() == []
    body["user_code"] = code["user_code"]
    assert client.post("/v1/oauth/device/authorize", json=body).status_code == 200
    assert (poll(client, code).json or {})["user"]["email"] == "ada@example.org"
    # a wrong key is not made good by a credential
    answer = client.post("/v1/oauth/device/authorize", json=body, headers=bearer("unknown"))
    assert problem(answer) == (401, "UNAUTHORIZED")


@pytest.mark.parametrize("body", [{}, {"credential": ""}, {"credential": 7}, [], "x"])
def test_a_credential_is_needed(client: FlaskClient, body: Any) -> None:
    assert problem(client.post("/v1/auth/google", json=body)) == (422, "VALIDATION_ERROR")


def test_google_cannot_be_asked_or_is_not_configured(
    client: FlaskClient, google: Google, monkeypatch: pytest.MonkeyPatch
) -> None:
    google.broken = True
    assert problem(with_google(client, google.token())) == (401, "AUTH_ERROR")
    monkeypatch.setattr(google_credentials, "configured", list)
    assert problem(with_google(client, google.token())) == (401, "INVALID_TOKEN")


@pytest.mark.parametrize("column", ["banned", "deleted_at"])
def test_google_signs_in_no_banned_or_deleted_account(
    client: FlaskClient, session: OrmSession, google: Google, column: str
) -> None:
    with_google(client, google.token())
    session.execute(update(User).values({column: True if column == "banned" else now()}))
    session.commit()
    assert with_google(client, google.token()).status_code == 403
    assert len(sessions(session)) == 1


# -- keys at providers ---------------------------------------------------------------------------------------

KEYS = "/v1/auth/api-keys"
SECRET = "sk-own-1234567890"
NAMES = {
    "anthropic": "ANTHROPIC_API_KEY",
    "openai": "OPENAI_API_KEY",
    "google": "GOOGLE_GENERATIVE_AI_API_KEY",
    "azure": "AZURE_OPENAI_API_KEY",
    "aws": "AWS_ACCESS_KEY_ID",
    "groq": "GROQ_API_KEY",
    "mistral": "MISTRAL_API_KEY",
}


def put(client: FlaskClient, person: Person, provider: str, value: str = SECRET) -> TestResponse:
    return client.post(KEYS, json={"provider": provider, "key_value": value}, headers=person.headers)


def listed(client: FlaskClient, person: Person) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (client.get(KEYS, headers=person.headers).json or {})["api_keys"]
    return found


def values(client: FlaskClient, person: Person, **headers: str) -> TestResponse:
    return client.get(f"{KEYS}/values", headers={**person.headers, **headers})


def test_one_key_for_each_provider(
    client: FlaskClient, session: OrmSession, alice: Person, bob: Person
) -> None:
    for provider in NAMES:
        assert put(client, alice, provider, f"key-of-{provider}").json == {"success": True}
    rows = listed(client, alice)
    assert {row["provider"]: row["key_name"] for row in rows} == NAMES
    for row in rows:
        assert (row["user_id"], row["key_value"]) == (alice.id, "•" * 20 + row["provider"][-4:].rjust(4, "-"))
        assert row["created_at"] == row["updated_at"]
    expected = {name: f"key-of-{provider}" for provider, name in NAMES.items()}
    answer = values(client, alice)
    assert (answer.json, answer.headers["Cache-Control"]) == ({"env_vars": expected}, "no-store")
    stored = session.scalars(select(ProviderKey)).all()
    assert not [row for row in stored if "key-of" in row.sealed]
    logged = repr([(row.before, row.after) for row in session.scalars(select(AuditLog))])
    assert "key-of" not in logged
    assert "ANTHROPIC_API_KEY" in logged
    # bob has none, and alice's stay hers
    assert (listed(client, bob), values(client, bob).json) == ([], {"env_vars": {}})
    assert client.delete(f"{KEYS}/openai", headers=bob.headers).json == {"success": True}
    assert len(listed(client, alice)) == 7


def test_a_key_is_replaced_and_removed(client: FlaskClient, alice: Person) -> None:
    put(client, alice, "google", "first-key-1111")
    (first,) = listed(client, alice)
    put(client, alice, "google", " second-key-2222 ")
    (second,) = listed(client, alice)
    assert (first["id"], second["key_value"]) == (second["id"], "•" * 20 + "2222")
    assert second["updated_at"] >= first["updated_at"]
    assert second["created_at"] == first["created_at"]
    for _ in range(2):
        assert client.delete(f"{KEYS}/google", headers=alice.headers).json == {"success": True}
        assert listed(client, alice) == []


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"provider": "openai"},
        {"key_value": SECRET},
        {"provider": "openrouter", "key_value": SECRET},
        {"provider": "gemini", "key_value": SECRET},
        {"provider": "OpenAI", "key_value": SECRET},
        {"provider": ["openai"], "key_value": SECRET},
        {"provider": "openai", "key_value": 12345678},
        {"provider": "openai", "key_value": ""},
        {"provider": "openai", "key_value": "short"},
        {"provider": "openai", "key_value": "with a space"},
        {"provider": "openai", "key_value": "x" * 501},
        {"provider": "openai", "key_value": "é" * 20},
    ],
)
def test_wrong_keys_are_422(client: FlaskClient, alice: Person, body: Any) -> None:
    answer = client.post(KEYS, json=body, headers=alice.headers)
    assert problem(answer) == (422, "VALIDATION_ERROR")
    assert SECRET not in answer.text
    assert listed(client, alice) == []


@pytest.mark.parametrize("provider", ["gemini", "openrouter", "x", "%00", "OPENAI"])
def test_an_unknown_provider_is_422(client: FlaskClient, alice: Person, provider: str) -> None:
    answer = client.delete(f"{KEYS}/{provider}", headers=alice.headers)
    assert problem(answer) == (422, "VALIDATION_ERROR")


def test_who_reads_and_changes_keys(client: FlaskClient, alice: Person, acme: Org) -> None:
    assert alice.user
    put(client, alice, "openai")
    org_key = bearer(factories.token(alice.user, org_id=acme.id))
    reader = bearer(factories.api_key(alice.user, permissions=["keys:read"]))
    body = {"provider": "openai", "key_value": "sk-changed-1"}
    for headers, status in (({}, 401), (bearer("unknown"), 401), (org_key, 403), (reader, 403)):
        assert client.post(KEYS, json=body, headers=headers).status_code == status
        assert client.post(KEYS, json={}, headers=headers).status_code == status
        assert client.delete(f"{KEYS}/openai", headers=headers).status_code == status
        assert client.get(f"{KEYS}/values", headers=headers).status_code == status
        assert client.get(KEYS, headers=headers).status_code == (200 if headers is reader else status)
    assert (values(client, alice).json or {})["env_vars"] == {"OPENAI_API_KEY": SECRET}


@pytest.mark.parametrize("headers", [{"Sec-Fetch-Site": "cross-site"}, {"User-Agent": "Mozilla/5.0"}])
def test_browsers_read_no_values(client: FlaskClient, alice: Person, headers: dict[str, str]) -> None:
    put(client, alice, "openai")
    answer = values(client, alice, **headers)
    assert (answer.status_code, SECRET in answer.text) == (403, False)


def test_keys_from_the_page_are_never_read_back(
    client: FlaskClient, session: OrmSession, alice: Person
) -> None:
    form = ProviderKeyForm(provider="openai", name="OPENAI_API_KEY", secret="sk-from-the-page")
    factories.save(add_provider_key(alice.account, alice.id, form))
    assert (listed(client, alice), values(client, alice).json) == ([], {"env_vars": {}})
    client.delete(f"{KEYS}/openai", headers=alice.headers)
    put(client, alice, "openai")
    assert (values(client, alice).json or {})["env_vars"] == {"OPENAI_API_KEY": SECRET}
    assert len(session.scalars(select(ProviderKey)).all()) == 2


def test_a_key_that_cannot_be_read(client: FlaskClient, session: OrmSession, alice: Person) -> None:
    put(client, alice, "openai")
    put(client, alice, "mistral")
    session.execute(
        update(ProviderKey).where(ProviderKey.provider == "openai").values(sealed="provider2:AAAA")
    )
    session.commit()
    assert [row["key_value"] for row in listed(client, alice)] == ["•" * 20 + "7890", "•" * 24]
    assert problem(values(client, alice)) == (409, "DECRYPTION_FAILED")
    put(client, alice, "openai")
    assert values(client, alice).status_code == 200


def test_only_keys_of_our_providers_pay_for_calls(
    client: FlaskClient, alice: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    for provider in NAMES:
        put(client, alice, provider)
    gateway = client.application.extensions["gateway"]
    keys = AccountKeys(gateway.pool, "unused")
    assert alice.id in keys._with_keys()
    assert sorted(key.provider for key in keys._keys(alice.id)) == ["anthropic", "gemini", "openai"]


def test_the_page_shows_them_all(client: FlaskClient, alice: Person) -> None:
    for provider in ("groq", "google"):
        put(client, alice, provider)
    page = alice.browser.get("/provider-keys").text
    for part in ("GROQ_API_KEY", "Groq", "No calls here", "GOOGLE_GENERATIVE_AI_API_KEY", "All models"):
        assert part in page
    assert '<option value="groq"' not in page
    id = next(row["id"] for row in listed(client, alice) if row["provider"] == "groq")
    assert "do not get it any more" in alice.browser.get(f"/provider-keys/{id}/removal").text
    assert alice.browser.get(f"/provider-keys/{id}").status_code == 200


def test_the_database_allows_one_of_each_and_of_people_only(
    session: OrmSession, alice: Person, acme: Org
) -> None:
    row = {"provider": "openai", "name": "K", "sealed": "x", "hint": "x", "from_client": True}
    session.add(ProviderKey(user_id=alice.id, **row))
    session.commit()
    for owner in ({"user_id": alice.id}, {"org_id": acme.id}):
        session.add(ProviderKey(**owner, **row))
        with pytest.raises(IntegrityError):
            session.commit()
        session.rollback()
