"""`flask accounts …`: output and effects on the database."""

from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import Result
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import select
from sqlalchemy.orm import Session as OrmSession

import models.core.settings as settings_module
from models.accounts import ApiKey, LoginLink, Session, User
from models.accounts.key_format import present
from models.accounts.scopes import AGENTS_PUBLISH, AGENTS_RUN, CHAT, INFERENCE, USAGE_READ
from models.core.audit_log import AuditLog
from models.ledger import CreditLedger
from tests import factories
from tests.accounts.browsing import token_of


@pytest.fixture
def flask(app: Flask):  # type: ignore[no-untyped-def]
    """Run a command like the shell."""
    runner = app.test_cli_runner()

    def run(*words: str) -> Result:
        return runner.invoke(args=["accounts", *words])

    return run


def test_create_prints_only_the_id(flask, session: OrmSession) -> None:  # type: ignore[no-untyped-def]
    result = flask("create", "Ada@Example.org", "--name", "Ada")
    assert result.exit_code == 0
    user = session.scalars(select(User)).one()
    assert result.stdout == f"{user.id}\n"
    assert (user.email, user.name) == ("ada@example.org", "Ada")
    assert user.email_verified is not None
    assert session.scalars(select(CreditLedger.principal)).all() == [500]
    assert session.scalars(select(AuditLog.action)).all() == ["user.created"]


@pytest.mark.parametrize("wrong", ["\ud800", "a\udcffb", "\udcc3@example.org", "a\0b"])
@pytest.mark.parametrize(
    "words",
    [
        ("create", "ada@example.org", "--name"),
        ("token", "alice@example.org", "--name"),
        ("ban", "alice@example.org", "--reason"),
        ("link",),
        ("unban",),
    ],
)
def test_what_is_no_text_is_refused_in_a_sentence(  # type: ignore[no-untyped-def]
    flask, session: OrmSession, words: tuple[str, ...], wrong: str
) -> None:
    factories.user("alice")
    result = flask(*words, wrong)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Arguments must be text in UTF-8, without NUL." in result.stderr
    assert session.scalars(select(AuditLog)).all() == []


def test_create_refuses_a_taken_address(flask, session: OrmSession) -> None:  # type: ignore[no-untyped-def]
    factories.user("alice")
    result = flask("create", "ALICE@example.org")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "already has an account" in result.stderr


@pytest.mark.parametrize(
    "words", [("create", "x"), ("token", "x"), ("link", "x"), ("ban", "x"), ("unban", "x")]
)
def test_no_address_no_work(flask, words: tuple[str, str]) -> None:  # type: ignore[no-untyped-def]
    result = flask(*words)
    assert result.exit_code == 1
    assert "is not an e-mail address" in result.stderr


@pytest.mark.parametrize("command", ["token", "ban", "unban"])
def test_an_unknown_address_says_what_to_do(flask, command: str) -> None:  # type: ignore[no-untyped-def]
    result = flask(command, "nobody@example.org")
    assert result.exit_code == 1
    assert "flask accounts create nobody@example.org" in result.stderr


@pytest.mark.parametrize(
    ("options", "prefix", "permissions"),
    [
        ((), "sk_live_", [*INFERENCE, AGENTS_RUN, AGENTS_PUBLISH, USAGE_READ]),
        (("--test",), "sk_test_", [*INFERENCE, AGENTS_RUN, AGENTS_PUBLISH, USAGE_READ]),
        (("--scope", "usage:read", "--scope", "chat"), "sk_live_", [CHAT, USAGE_READ]),
        (("--older-kind",), "cb-pat-", None),
    ],
)
def test_token_prints_only_a_token_that_works(  # type: ignore[no-untyped-def]
    flask,
    session: OrmSession,
    client: FlaskClient,
    options: tuple[str, ...],
    prefix: str,
    permissions: list[str] | None,
) -> None:
    user = factories.user("alice")
    result = flask("token", "alice@example.org", "--days", "7", *options)
    assert result.exit_code == 0
    token = result.stdout.removesuffix("\n")
    assert token.startswith(prefix)
    assert client.get("/api/v1/me", headers={"Authorization": f"Bearer {token}"}).json == {"id": user.id}
    row = session.get_one(Session, present(token).id)
    assert timedelta(days=6, hours=23) < row.expires - factories.now() <= timedelta(days=7)
    assert session.scalars(select(ApiKey.permissions)).all() == ([] if permissions is None else [permissions])
    assert token not in str([(each.before, each.after) for each in session.scalars(select(AuditLog))])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--scope", "everything"), "There is no scope 'everything'. Use: inference:chat"),
        (("--scope", "chat", "--older-kind"), "has no scopes"),
        (("--test", "--older-kind"), "no environment"),
    ],
)
def test_token_refuses_unknown_and_needless_scopes(  # type: ignore[no-untyped-def]
    flask, session: OrmSession, options: tuple[str, ...], says: str
) -> None:
    factories.user("alice")
    result = flask("token", "alice@example.org", *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert says in result.stderr.replace("\n", " ")
    assert session.scalars(select(Session)).all() == []


def test_token_of_an_organisation_is_for_its_members(flask, session: OrmSession) -> None:  # type: ignore[no-untyped-def]
    alice, mallory = factories.user("alice"), factories.user("mallory")
    org = factories.org(alice)
    token = flask("token", "alice@example.org", "--org", "acme").stdout.strip()
    assert session.get_one(Session, present(token).id).org_id == org.id
    for email, slug in ((mallory.email, "acme"), (alice.email, "nowhere")):
        refused = flask("token", email, "--org", slug)
        assert refused.exit_code == 1
        assert f"{email} is not a member of an organisation {slug}." in refused.output


@pytest.mark.parametrize("days", ["0", "366", "x", "-1"])
def test_token_refuses_impossible_days(flask, session: OrmSession, days: str) -> None:  # type: ignore[no-untyped-def]
    factories.user("alice")
    assert flask("token", "alice@example.org", "--days", days).exit_code == 2


def test_link_signs_in_once(flask, session: OrmSession, client: FlaskClient) -> None:  # type: ignore[no-untyped-def]
    result = flask("link", "alice@example.org")
    assert result.exit_code == 0
    address = result.stdout.strip()
    assert address.startswith("http://localhost:8000/login/link/")
    assert len(session.scalars(select(LoginLink)).all()) == 1
    (entry,) = session.scalars(select(AuditLog)).all()
    assert (entry.action, entry.subject) == ("user.sign_in_link", "alice@example.org")
    path = address.removeprefix("http://localhost:8000")
    assert client.post(path, data={"csrf_token": token_of(client.get(path))}).status_code == 303
    assert client.get("/api/auth/session").json["user"]["email"] == "alice@example.org"  # type: ignore[index]


def test_admin_is_written_into_the_configuration(  # type: ignore[no-untyped-def]
    flask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings_module, "ROOT", tmp_path)
    monkeypatch.delenv("STOA_ADMINS", raising=False)
    (tmp_path / ".env").write_text("PORT=8001\n")
    result = flask("create", "ada@example.org", "--admin")
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) == 1
    assert "Restart" in result.stderr
    assert (tmp_path / ".env").read_text() == "PORT=8001\nSTOA_ADMINS=ada@example.org,root@example.org\n"


def test_admin_leaves_an_environment_alone(  # type: ignore[no-untyped-def]
    flask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings_module, "ROOT", tmp_path)
    monkeypatch.setenv("STOA_ADMINS", "root@example.org")
    result = flask("create", "ada@example.org", "--admin")
    assert result.exit_code == 0
    assert "Set STOA_ADMINS=ada@example.org,root@example.org there" in result.stderr
    assert not (tmp_path / ".env").exists()


def test_an_admin_already_named_needs_nothing(  # type: ignore[no-untyped-def]
    flask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings_module, "ROOT", tmp_path)
    result = flask("create", "root@example.org", "--admin")
    assert (result.exit_code, result.stderr) == (0, "")
    assert not (tmp_path / ".env").exists()
