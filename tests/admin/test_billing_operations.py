"""The operators' payment page: it shows the same data as the commands, and its buttons have the same effects."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from models import billing
from models.billing.payments import customers, stripe_events
from models.core import jobs
from models.core.db import now
from models.ledger import SyncFailure, record_head
from models.ledger.heads import recent_heads
from models.orgs import Org
from tests.billing.stage import Desk
from tests.billing.topups import post
from tests.factories import Person

PAGE = "/admin/billing"
HTMX = {"HX-Request": "true"}


def page(who: Person, path: str = PAGE, **kw: Any) -> str:
    answer = who.browser.get(path, **kw)
    assert answer.status_code == 200, answer.text
    return answer.text


def pending(desk: Desk, task: str) -> list[str]:
    desk.session.rollback()
    query = "SELECT status::text FROM procrastinate_jobs WHERE task_name = :task AND scheduled_at IS NULL"
    return list(desk.session.scalars(text(query), {"task": task}))


def audited(desk: Desk) -> list[tuple[str, str]]:
    desk.session.rollback()
    rows = desk.session.execute(text("SELECT action, actor FROM audit_log ORDER BY id"))
    return [(row.action, row.actor) for row in rows]


def in_doubt(desk: Desk, who: Person, *, minutes: int = 3) -> str:
    """A purchase whose charge Stripe did not confirm."""
    desk.card(who)
    desk.stripe.fail("/v1/payment_intents", times=3)
    assert desk.buy(who).status_code == 500
    id = desk.purchases(who)[-1].id
    desk.session.execute(
        text("UPDATE purchase SET created_at = :at WHERE id = :id"),
        {"at": now() - timedelta(minutes=minutes), "id": id},
    )
    desk.session.commit()
    return id


@pytest.mark.parametrize(
    "path",
    [
        *("", "/reconciliation", "/proof", "/events", "/purchases", "/purchases/x"),
        *("!/reconciliation", "!/proof", "!/events/x/attempts", "!/purchases/x/checks"),
        *("!/failures/x/attempts", "!/freezes/x/clearance"),
    ],
)
def test_only_operators_can_open_it(
    desk: Desk, root: Person, alice: Person, anonymous: Person, path: str
) -> None:
    def ask(who: Person) -> int:
        if path.startswith("!"):
            return post(who.browser, PAGE + path[1:]).status_code
        return who.browser.get(PAGE + path).status_code

    unknown = "/x" in path
    assert (ask(alice), ask(anonymous)) == (403, 303 if path.startswith("!") else 302)
    assert ask(root) == (404 if unknown else 303 if path.startswith("!") else 200)
    assert 'href="/admin/billing"' not in alice.browser.get("/profile?tab=billing").text
    assert 'href="/admin/billing"' in root.browser.get("/profile?tab=billing").text


def test_empty_lists_have_messages(desk: Desk, root: Person) -> None:
    shown = page(root)
    for words in (
        *(
            "It has not run yet",
            "None: the outcome of every purchase is known",
            "No events are waiting",
            "No webhook was refused",
        ),
        *("Everything is synchronised", "No account is blocked from buying", "No head of the ledger"),
    ):
        assert words in shown, words


def test_a_server_without_stripe_shows_its_ledger(desk: Desk, root: Person) -> None:
    desk.app.extensions["stripe"] = None
    shown = page(root)
    assert "This server sells nothing" in shown
    assert "Run now: the ledger proof" in shown
    assert "Run now: the reconciliation" not in shown
    assert post(root.browser, f"{PAGE}/reconciliation").status_code == 503


def test_the_reconciliation_runs_now_and_shows_its_repairs(desk: Desk, root: Person, alice: Person) -> None:
    bought = desk.bought(alice)
    desk.refund(bought, 400)
    answer = post(root.browser, f"{PAGE}/reconciliation", headers=HTMX)
    assert (answer.status_code, "Requested" in answer.text) == (200, True)
    assert 'hx-trigger="every 3s"' in answer.text
    assert post(root.browser, f"{PAGE}/reconciliation").headers["Location"].endswith("#reconciliation")
    assert pending(desk, "billing.reconcile") == ["todo"], "it is enqueued once"
    assert "Requested" in page(root)
    desk.session.execute(text("DELETE FROM procrastinate_jobs WHERE task_name = 'billing.reconcile'"))
    desk.session.commit()
    desk.run(jobs.reconcile_purchases, 0)
    shown = page(root, f"{PAGE}/reconciliation", headers=HTMX)
    assert "Agrees" in shown
    assert "refunded_cents 0 → 400" in shown
    assert f'href="{PAGE}/purchases/{bought.id}"' in shown
    assert "every 3s" not in shown
    assert ("billing.reconcile", "root@example.org") in audited(desk)


def test_a_reconciliation_that_waits_for_a_retry_runs_now(desk: Desk, root: Person) -> None:
    later = now() + timedelta(hours=1)
    desk.run(jobs.enqueue, jobs.reconcile_purchases, at=later, timestamp=0)
    desk.session.rollback()
    assert desk.run(jobs.pending_state, jobs.reconcile_purchases) is None
    post(root.browser, f"{PAGE}/reconciliation")
    assert pending(desk, "billing.reconcile") == ["todo"]
    assert desk.run(jobs.pending_state, jobs.reconcile_purchases) == "waiting"


def test_an_interrupted_reconciliation_shows_its_error(desk: Desk, root: Person) -> None:
    desk.stripe.fail("/v1/payment_intents", method="GET", times=3)
    with pytest.raises(billing.StripeError):
        desk.run(billing.reconcile)
    shown = page(root)
    assert "The run did not finish" in shown
    assert "Stripe did not answer" in shown


def test_the_proof_runs_now_and_shows_the_differences_and_the_head(
    desk: Desk, root: Person, alice: Person
) -> None:
    desk.bought(alice)
    desk.run(record_head)
    assert "Requested" in post(root.browser, f"{PAGE}/proof", headers=HTMX).text
    assert pending(desk, "billing.prove") == ["todo"]
    desk.session.execute(text("DELETE FROM procrastinate_jobs WHERE task_name = 'billing.prove'"))
    desk.session.commit()
    desk.run(jobs.prove_ledger, 0)
    shown = page(root)
    assert "All totals match" in shown
    assert desk.run(lambda: recent_heads(1)[0].hash.hex()) in shown
    desk.session.execute(text("UPDATE purchase SET credits = credits + 1"))
    desk.session.commit()
    desk.run(jobs.prove_ledger, 0)
    shown = page(root)
    assert "1 differ" in shown
    assert "a paid purchase" in shown
    assert "expected 1001, found 1000" in shown
    desk.session.execute(text("UPDATE purchase SET credits = credits - 1"))
    desk.session.commit()


def test_events_are_listed_with_their_reasons_and_retried(
    desk: Desk, root: Person, alice: Person, mallory: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    bought = desk.bought(alice)
    (paid,) = desk.events("payment_intent.succeeded")
    forged = dict(paid["data"]["object"])
    desk.forge(
        "payment_intent.succeeded", forged | {"metadata": {"operationId": "x", "grantType": "purchase"}}
    )
    desk.work()
    desk.post(b"{}", secret="whsec_other")
    desk.post(b"{}", at=1)
    assert desk.deliver(paid).status_code == 200
    waiting = page(root, f"{PAGE}/events?state=waiting")
    assert paid["id"] in waiting
    assert f'href="{PAGE}/purchases/{bought.id}"' in waiting
    with monkeypatch.context() as broken:
        broken.setitem(stripe_events.HANDLERS, "payment_intent.succeeded", [lambda event: 1 // 0])
        with pytest.raises(ZeroDivisionError):
            desk.run(stripe_events.apply_event, paid["id"])
    shown = page(root)
    for words in ("Waiting 0", "Failed 1", "Ignored 1", "ZeroDivisionError", "x: there is no such purchase"):
        assert words in shown, words
    assert shown.count("The signature is too old") == shown.count("No valid signature") == 1
    for state, count in (("failed", 1), ("ignored", 1), ("waiting", 0), ("", 2)):
        listed = page(root, f"{PAGE}/events?state={state}")
        assert listed.count('scope="row"') == count, state
    assert root.browser.get(f"{PAGE}/events?state=lost").status_code == 404
    printed = desk.app.test_cli_runner().invoke(args=["billing", "events"]).output
    assert "ignored: x: there is no such purchase" in printed
    assert "failed 1 times: ZeroDivisionError" in printed

    answer = post(root.browser, f"{PAGE}/events/{paid['id']}/attempts", headers=HTMX)
    assert ("Waiting" in answer.text, answer.text.count("<tr")) == (True, 1)
    assert len(pending(desk, "billing.handle_event")) == 3
    desk.work()
    assert "Failed 0" in page(root)
    assert post(root.browser, f"{PAGE}/events/{paid['id']}/attempts").status_code == 404
    assert audited(desk) == [("billing.retry_event", "root@example.org")]


def test_mismatched_events_show_their_purchase_and_the_reason(
    desk: Desk, root: Person, alice: Person
) -> None:
    desk.customer(alice)
    changes: list[tuple[dict[str, Any], str]] = [
        ({"currency": "jpy"}, "its currency is usd, and Stripe says jpy"),
        ({"amount_received": 999, "amount_total": 999}, "its amount is 1000, and Stripe says 999"),
        ({"customer": "cus_of_mallory"}, "and Stripe says cus_of_mallory"),
    ]
    for changed, _ in changes:
        session = desk.sim.get("checkout.session", (desk.buy(alice).json or {})["sessionId"])
        desk.stripe.pay(session["id"])
        intent = desk.sim.get("payment_intent", session["payment_intent"])
        for each in (session, intent):
            each |= {name: value for name, value in changed.items() if name in each}
    desk.deliver_events("checkout.session.completed")
    shown = page(root, f"{PAGE}/events?state=ignored")
    for _, reason in changes:
        assert reason in shown, reason
    for purchase in desk.purchases(alice):
        assert f'href="{PAGE}/purchases/{purchase.id}"' in shown
    assert desk.balance(alice) == 0


def test_lists_are_paged(desk: Desk, root: Person, alice: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    from views.admin.pages import billing_operations

    monkeypatch.setattr(billing_operations, "PAGE", 2)
    desk.card(alice)
    for _ in range(3):
        desk.buy(alice)
        desk.forge("payment_intent.succeeded", {"metadata": {"operationId": "x", "grantType": "purchase"}})
    desk.work()
    for path in ("/purchases", "/events"):
        first = page(root, PAGE + path)
        more = (
            first.partition("data-load-more")[2]
            .partition('href="')[2]
            .partition('"')[0]
            .replace("&amp;", "&")
        )
        second = page(root, more, headers=HTMX)
        assert (first.count('scope="row"'), second.count('scope="row"')) == (2, 1), path
        assert "data-load-more" not in second
        assert root.browser.get(f"{PAGE}{path}?before=yesterday").status_code == 422


def test_purchases_in_doubt_are_fetched_again(desk: Desk, root: Person, alice: Person) -> None:
    id = in_doubt(desk, alice, minutes=1)
    assert id not in page(root)
    answer = post(root.browser, f"{PAGE}/purchases/{id}/checks")
    assert answer.status_code == 409, "its request may still run"
    id = in_doubt(desk, alice)
    waiting = desk.purchases(alice)
    shown = page(root)
    assert shown.count("Waiting</span>") == 1
    assert f'href="{PAGE}/purchases/{id}"' in shown
    assert f'href="{PAGE}/purchases?account={alice.id}"' in shown
    printed = desk.app.test_cli_runner().invoke(args=["billing", "purchases", "--in-doubt"]).output
    assert (id in printed, len(printed.splitlines())) == (True, len(waiting) - 1)
    assert post(root.browser, f"{PAGE}/purchases/{id}/checks").status_code == 303
    assert pending(desk, "billing.sync_purchase") == ["todo"]
    desk.run(jobs.sync_purchase, id)
    assert id not in page(root)
    assert "Cancelled" in page(root, f"{PAGE}/purchases/{id}")


def test_an_overdue_checkout_page_is_in_doubt(desk: Desk, root: Person, alice: Person) -> None:
    desk.customer(alice)
    assert "sessionId" in (desk.buy(alice).json or {})
    id = desk.purchase(alice).id
    for hours, doubtful in ((24, False), (26, True)):
        desk.session.execute(
            text("UPDATE purchase SET created_at = :at"), {"at": now() - timedelta(hours=hours)}
        )
        desk.session.commit()
        assert (id in page(root)) is doubtful


def test_purchases_are_found_by_account_and_state(
    desk: Desk, root: Person, alice: Person, bob: Person, acme: Org
) -> None:
    mine = desk.bought(alice)
    theirs = desk.bought(bob)
    for query, found in (
        ("", {mine.id, theirs.id}),
        ("?account=alice@example.org", {mine.id}),
        (f"?account={bob.id}", {theirs.id}),
        ("?account=acme", set()),
        ("?state=refunded", set()),
        ("?state=paid", {mine.id, theirs.id}),
    ):
        shown = page(root, f"{PAGE}/purchases{query}")
        assert {id for id in (mine.id, theirs.id) if f">{id}<" in shown} == found, query
    unknown = root.browser.get(f"{PAGE}/purchases?account=nobody@example.org")
    assert (unknown.status_code, "There is no user nobody@example.org" in unknown.text) == (422, True)
    desk.dispute(mine)
    desk.refund(theirs, 300)
    desk.deliver_events()
    assert "Dispute: " in page(root, f"{PAGE}/purchases/{mine.id}")
    shown = page(root, f"{PAGE}/purchases/{theirs.id}")
    assert "Partly refunded" in shown
    assert "bob@example.org" in shown
    assert str(theirs.stripe_charge_id) in shown


def test_failed_synchronisations_are_retried_five_more_times(desk: Desk, root: Person, alice: Person) -> None:
    desk.stripe.fail("/v1/customers", times=100)
    for _ in range(customers.MAX_TRIES):
        with pytest.raises(billing.StripeError):
            desk.customer(alice)
    id = customers.REPAIR_PREFIX + alice.id
    assert f"{customers.MAX_TRIES} of 5" in page(root)
    assert id in desk.app.test_cli_runner().invoke(args=["billing", "failures"]).output
    assert post(root.browser, f"{PAGE}/failures/{id}/attempts").status_code == 303
    assert "0 of 5" in page(root)
    assert "retried automatically" in page(root)
    desk.session.rollback()
    assert desk.session.get_one(SyncFailure, id).retry_count == 0


def test_frozen_and_banned_buyers_are_listed_and_unfrozen(
    desk: Desk, root: Person, alice: Person, bob: Person
) -> None:
    bought = desk.bought(alice)
    desk.dispute(bought)
    desk.deliver_events()
    desk.customer(bob)
    desk.session.execute(
        text("UPDATE \"user\" SET banned = true, banned_reason = '5 disputes' WHERE id = :id"), {"id": bob.id}
    )
    desk.session.commit()
    shown = page(root)
    for words in ("alice@example.org", "dispute open", "Buying frozen", "bob@example.org", "5 disputes"):
        assert words in shown, words
    printed = desk.app.test_cli_runner().invoke(args=["billing", "frozen"]).output
    assert f"alice@example.org  1 disputed, the first open: $10.00  {bought.id}" in printed
    assert "banned  bob@example.org  5 disputes" in printed
    assert post(root.browser, f"{PAGE}/freezes/{alice.id}/clearance").status_code == 303
    assert "alice@example.org" not in page(root)
    assert post(root.browser, f"{PAGE}/freezes/{alice.id}/clearance").status_code == 404
    assert ("billing.unfreeze", "root@example.org") in audited(desk)
