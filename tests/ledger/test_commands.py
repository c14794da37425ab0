"""`flask billing` commands."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from models import ledger
from models.core.audit_log import AuditLog
from models.core.pool import Pool
from models.ledger import CreditLedger
from tests import factories
from tests.ledger.stage import call, payer

FUTURE = datetime.now(UTC) + timedelta(days=10)


@pytest.fixture
def run(app: Flask) -> Any:
    """Run a command and return its exit code and output."""
    runner = app.test_cli_runner()

    def invoke(*args: str) -> tuple[int, str]:
        result = runner.invoke(args=["billing", *args])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
        return result.exit_code, result.output

    return invoke


def test_a_grant_is_reported_and_audited(run: Any, session: Session) -> None:
    alice = payer(session, next_quota_reset=FUTURE)
    code, output = run("grant", "Alice@example.org", "250")
    assert code == 0
    assert "Granted 250 credits to alice@example.org. Balance: 250." in output
    row = session.scalars(select(CreditLedger)).one()
    assert (row.type, row.principal, row.expires_at, row.user_id) == ("admin", 250, None, alice.id)
    log = session.scalars(select(AuditLog)).one()
    assert (log.action, log.subject, log.after["credits"]) == ("billing.grant", alice.id, 250)


def test_an_organisation_is_named_by_its_slug(run: Any, session: Session) -> None:
    org = factories.org(factories.user("alice"))
    code, output = run("grant", "acme", "250")
    assert (code, output.splitlines()[0]) == (0, "Granted 250 credits to acme. Balance: 250.")
    row = session.scalars(select(CreditLedger)).one()
    assert (row.type, row.org_id, row.principal) == ("organization", org.id, 250)
    code, output = run("balance", "acme")
    assert code == 0
    assert output.startswith(f"acme  {org.id}\n")
    assert run("prove")[0] == 0


def test_granting_with_type_and_expiry(run: Any, session: Session) -> None:
    payer(session, next_quota_reset=FUTURE)
    assert run("grant", "alice@example.org", "5", "--type", "purchase", "--expires", "2099-01-31")[0] == 0
    row = session.scalars(select(CreditLedger)).one()
    assert (row.type, row.expires_at) == ("purchase", datetime(2099, 1, 31, tzinfo=UTC))


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("grant", "nobody@example.org", "5"), 1, "There is no user nobody@example.org."),
        (("grant", "not an address", "5"), 1, "There is no organisation not an address."),
        (("balance", "nowhere"), 1, "There is no organisation nowhere."),
        (("balance", "nobody@example.org"), 1, "There is no user"),
        (("grant", "alice@example.org", "5", "--expires", "2001-01-01"), 1, "would expire in the past"),
        (("grant", "alice@example.org", "5", "--expires", "tomorrow"), 2, "is not a valid date"),
        (("grant", "alice@example.org", "0"), 2, "range"),
        (("grant", "alice@example.org", "1e3"), 2, "not a valid integer"),
        (("grant", "alice@example.org", "99999999999999999999"), 2, "range"),
        (("grant", "alice@example.org", "5", "--type", "gold"), 2, "is not one of"),
        (("grant", "alice@example.org", "5", "--type", "organization"), 2, "is not one of"),
        (("lost", "--dismiss", "nothing"), 1, "no lost call"),
    ],
)
def test_invalid_arguments_are_explained(
    run: Any, session: Session, args: tuple[str, ...], code: int, message: str
) -> None:
    payer(session, next_quota_reset=FUTURE)
    exit_code, output = run(*args)
    assert exit_code == code
    assert message in output
    assert "Traceback" not in output
    assert session.scalars(select(CreditLedger)).all() == []


def test_balance_and_revoke(run: Any, session: Session) -> None:
    payer(session, next_quota_reset=FUTURE)
    operation = run("grant", "alice@example.org", "1250")[1].splitlines()[-1]
    code, output = run("balance", "alice@example.org")
    assert code == 0
    assert "1,250 of 1,250, no expiry" in output
    assert f"next reset        {FUTURE:%Y-%m-%d}" in output
    assert run("revoke", operation, "--reason", "mistake") == (0, "Revoked 1,250 credits.\n")
    assert "0" in run("balance", "alice@example.org")[1]


def test_prove_is_clean_and_names_what_was_tampered_with(run: Any, session: Session, pool: Pool) -> None:
    alice = payer(session, next_quota_reset=FUTURE)
    run("grant", "alice@example.org", "100")
    admission = ledger.admit(pool, ledger.AdmissionRequest(token_hash=alice.key, request_id="req-1", hold=5))
    ledger.settle(pool, admission, call(5, message_id="gen-1"))
    code, output = run("prove")
    assert code == 0
    assert "1 accounts, 2 entries, 1 messages: all totals match." in output
    for statement, expected in (
        ("UPDATE credit_ledger SET balance = balance + 1", "expected 95, found 96"),
        ("UPDATE message SET credits = 4", "gen-1: expected 4, found 5"),
        ("UPDATE usage_rollup SET calls = 7 WHERE grain = 'day'", "rollups are the sums of messages"),
        ("UPDATE credit_account SET carry_micro = 9", "expected 0, found 9"),
        ("DELETE FROM usage_rollup WHERE grain = 'hour'", "found none"),
        ("DELETE FROM gateway_call", "found no call"),
        ("UPDATE credit_ledger SET principal = 7", "expected 100, found 7"),
        ("UPDATE credit_hold SET expires_at = now() - interval '1 hour'", None),
    ):
        session.execute(text(statement))
        session.commit()
        if expected:
            code, output = run("prove")
            assert code == 1
            assert expected in output


def test_sweeping_and_the_list_of_lost_calls(run: Any, session: Session, pool: Pool) -> None:
    alice = payer(session, next_quota_reset=FUTURE)
    assert run("lost") == (0, "No lost calls.\n")
    run("grant", "alice@example.org", "100")
    past = datetime.now(UTC) - timedelta(hours=1)
    request = ledger.AdmissionRequest(token_hash=alice.key, request_id="req-1", hold=5, model="m")
    ledger.admit(pool, request, worker="w1", now=past)
    assert "DRIFT  no hold outlives" in run("prove")[1]
    assert run("sweep") == (0, "1 holds lost, 0 grants expired with 0 credits.\n")
    assert "req-1  alice@example.org  m  held 5  run -  worker w1" in run("lost")[1]
    code, output = run("prove")
    assert (code, "1 lost calls to review" in output) == (0, True)
    assert run("lost", "--dismiss", "req-1")[0] == 0
    assert run("lost") == (0, "No lost calls.\n")
