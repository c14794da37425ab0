"""The operators' overview: what needs attention, the last proofs, and how reviews of lost calls end."""

from datetime import timedelta

from flask import Flask
from sqlalchemy import text
from sqlalchemy.orm import Session as OrmSession

from models import billing
from models.accounts.users import User
from models.core import jobs
from models.core.db import now
from models.ledger import SyncFailure
from models.ledger.holds import Admission, settlement_facts
from models.orgs import Org
from models.orgs.webhooks import add_webhook, enqueue_delivery
from tests import factories
from tests.admin.test_accounts import HTMX, audited, post
from tests.billing.stage import Desk
from tests.factories import Person
from tests.ledger.stage import call as settlement


def test_nothing_needs_attention_when_all_is_well(desk: Desk, session: OrmSession, root: Person) -> None:
    shown = root.browser.get("/admin").text
    for words in ("No job worker is running", "ledger proof did not run", "not compared with Stripe"):
        assert words in shown, words
    printed = desk.app.test_cli_runner().invoke(args=["doctor"])
    assert (printed.exit_code, "URGENT  No job worker is running" in printed.output) == (1, True)
    heartbeat(session)
    desk.run(billing.record_ledger_proof)
    desk.run(billing.record_store_proof)
    desk.run(billing.reconcile)
    shown = root.browser.get("/admin").text
    assert "Nothing needs you" in shown
    printed = desk.app.test_cli_runner().invoke(args=["doctor"])
    assert (printed.exit_code, "Nothing needs attention" in printed.output) == (0, True)
    assert "ledger proof" in printed.output
    for words in ("0 entries verified", "0 runs verified", "0 payments verified", "Run now"):
        assert words in shown, words


def test_each_thing_that_needs_attention_is_a_line_with_a_link(
    desk: Desk, app: Flask, session: OrmSession, root: Person, auditor: Person, alice: Person, acme: Org
) -> None:
    heartbeat(session)
    user, org_id = session.get_one(User, alice.id), acme.id
    factories.hold(user, state="lost", lost_at=factories.now())
    factories.call(user, flags=["cost_above_list"])
    factories.call(
        user, state="failed", error="model_price_missing", provider=None, requested_model="acme/new"
    )
    jobs.enqueue(jobs.forget_submissions, timestamp=0)
    jobs.enqueue(jobs.top_up, account_id=alice.id)
    session.execute(
        text("UPDATE procrastinate_jobs SET status = 'failed' WHERE task_name = 'core.forget_submissions'")
    )
    session.execute(text("UPDATE procrastinate_events SET at = at - interval '10 minutes'"))
    session.add(SyncFailure(id="x", provider="stripe", retry_count=5, last_error="refused"))
    webhook, _ = add_webhook(org_id, "https://example.org/hook")
    webhook.disabled_at = now()
    session.commit()
    desk.run(billing.record_ledger_proof, now=now() - timedelta(days=3))
    shown = root.browser.get("/admin").text
    for words, address in (
        ("1 lost call:", "/admin/calls#lost"),
        ("1 charged call with a bill in doubt", "/admin/calls#flagged"),
        ("Requests for 1 model without a price", "/admin/calls#refused"),
        ("1 job failed for good", "/admin/jobs"),
        ("due for over 5 minutes, the oldest of billing.top_up", "/admin/jobs"),
        ("1 change could not be synchronised", "/admin/billing#failures"),
        ("1 webhook failing or switched off", "/admin/webhooks"),
        ("The ledger proof did not run", "/admin/proofs#ledger"),
        ("The proof of the store’s statistics did not run", "/admin/proofs#store"),
    ):
        line = next((each for each in shown.split("<li ") if words in each), "")
        assert f'href="{address}"' in line, words
    assert "Needs attention" in auditor.browser.get("/admin").text
    assert "Run now" not in auditor.browser.get("/admin").text


def test_proofs_run_on_demand_and_keep_their_findings(
    desk: Desk, session: OrmSession, root: Person, auditor: Person, alice: Person
) -> None:
    desk.bought(alice)
    for kind, task in (
        ("ledger", "billing.prove"),
        ("store", "store.prove"),
        ("stripe", "billing.reconcile"),
    ):
        address = f"/admin/proofs/{kind}/runs"
        assert post(auditor, address).status_code == 403
        requested = post(root, address, headers=HTMX)
        assert (requested.status_code, "every 3s" in requested.text, "<html" in requested.text) == (
            200,
            True,
            False,
        )
        assert post(root, address).headers["Location"] == "/admin/proofs"
        session.rollback()
        queued = session.execute(text("SELECT task_name FROM procrastinate_jobs")).scalars().all()
        assert queued.count(task) == 1
    assert post(root, "/admin/proofs/weather/runs").status_code == 404
    session.execute(text("DELETE FROM procrastinate_jobs"))
    session.execute(text("UPDATE purchase SET credits = credits + 1"))
    session.commit()
    desk.run(jobs.prove_ledger, 0)
    shown = root.browser.get("/admin/proofs").text
    for words in ("2 differ", "expected 1001, found 1000", "No run is recorded yet"):
        assert words in shown, words
    assert "The ledger proof found 2 differences" in root.browser.get("/admin").text
    printed = desk.app.test_cli_runner().invoke(args=["billing", "prove"])
    assert (printed.exit_code, "2 differ" in printed.output) == (1, True)
    printed = desk.app.test_cli_runner().invoke(args=["store", "prove"])
    assert printed.exit_code == 0
    session.rollback()
    assert [len(billing.proof_runs(kind, limit=9)) for kind in ("ledger", "store")] == [2, 1]
    session.execute(text("UPDATE purchase SET credits = credits - 1"))
    session.commit()


def test_a_lost_call_is_dismissed_with_a_reason_unless_its_usage_is_known(
    desk: Desk, app: Flask, session: OrmSession, root: Person, auditor: Person, alice: Person
) -> None:
    user = session.get_one(User, alice.id)
    factories.grant(user, 100)
    lost = factories.hold(user, 7, state="lost", lost_at=factories.now())
    id = lost.request_id
    address = f"/admin/calls/{id}/dismissal"
    assert auditor.browser.get(address).status_code == 403
    assert post(auditor, address, {"reason": "x"}).status_code == 403
    assert "Dismiss" not in auditor.browser.get("/admin/calls").text
    shown = root.browser.get(address).text
    assert "Nothing was charged" in shown
    assert post(root, address, {"reason": " "}).status_code == 422
    for path in ("nothing", "a%00b", "x" * 3000):
        assert root.browser.get(f"/admin/calls/{path}/dismissal").status_code == 404
        assert post(root, f"/admin/calls/{path}/dismissal", {"reason": "x"}).status_code == 404

    spool = app.extensions["gateway"].spool
    facts = settlement_facts(Admission("admitted", id, "key", alice.id), settlement(2))
    spool.folder.mkdir(parents=True, exist_ok=True)
    file = spool.folder / f"{id}.json"
    file.write_text(f'{{"kind": "settle", "facts": {facts}}}')
    try:
        assert post(root, address, {"reason": "Died"}).status_code == 409
        known = root.browser.get("/admin/calls").text
        assert "usage known" in known
        assert "wait to be settled" in root.browser.get("/admin").text
        assert post(auditor, "/admin/calls/settlements").status_code == 403
        assert post(root, "/admin/calls/settlements").status_code == 303
    finally:
        file.unlink(missing_ok=True)
    session.rollback()
    assert (
        session.execute(text("SELECT count(*) FROM gateway_call WHERE state = 'settled'")).scalar_one() == 1
    )
    assert [row.after for row in audited(session, "billing.settled")] == [{"settled": 1, "of": 1}]

    other = factories.hold(user, 9, state="lost", lost_at=factories.now()).request_id
    assert (
        post(root, f"/admin/calls/{other}/dismissal", {"reason": "The provider did not charge"}).status_code
        == 303
    )
    assert post(root, f"/admin/calls/{other}/dismissal", {"reason": "Again"}).status_code == 404
    (row,) = audited(session, "billing.dismiss_lost")
    assert (row.subject, row.before["amount"], row.after) == (
        other,
        9,
        {"reason": "The provider did not charge"},
    )


def heartbeat(session: OrmSession) -> None:
    session.execute(text("INSERT INTO procrastinate_workers DEFAULT VALUES"))
    session.commit()


def test_a_failed_delivery_is_sent_again(
    desk: Desk, session: OrmSession, root: Person, auditor: Person, acme: Org
) -> None:
    org_id = acme.id
    webhook, _ = add_webhook(org_id, "https://hooks.example.org/secret-path?token=secret")
    refused = enqueue_delivery(webhook, "alert", {})
    refused.state, refused.attempts, refused.status = "failed", 10, 500
    unreachable = enqueue_delivery(webhook, "alert", {})
    unreachable.state = "failed"
    unreachable.error = (
        "HTTPSConnectionPool(host='hooks.example.org'): Max retries exceeded with url: /secret-path"
    )
    enqueue_delivery(webhook, "budget", {})
    session.execute(text("DELETE FROM procrastinate_jobs"))
    session.commit()
    id = refused.id
    shown = root.browser.get("/admin/webhooks").text
    for words in ("The receiver answered 500", "Max retries exceeded", "hooks.example.org", "Acme"):
        assert words in shown, words
    assert "secret" not in shown
    assert "budget" in root.browser.get("/admin/webhooks?state=retried").text
    assert "Redeliver" not in auditor.browser.get("/admin/webhooks").text
    assert post(root, f"/admin/webhooks/deliveries/{id}/attempts").status_code == 303
    session.rollback()
    assert session.execute(text("SELECT task_name FROM procrastinate_jobs")).scalars().all() == [
        "orgs.deliver_webhook"
    ]
    (row,) = audited(session, "webhook.redelivered")
    assert (row.subject, row.org_id, row.after) == (webhook.id, org_id, {"delivery": id})
    webhook.disabled_at = now()
    session.commit()
    assert post(root, f"/admin/webhooks/deliveries/{unreachable.id}/attempts").status_code == 409
    assert root.browser.get("/admin/webhooks?state=x").status_code == 404
    assert root.browser.get("/admin/webhooks?before=x").status_code == 422
