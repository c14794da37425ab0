"""Billing e-mails: one per cause when events repeat, unsubscribing, and low balances, with an SMTP server."""

import re
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from sqlalchemy import select, text

from models import ledger
from models.accounts.sessions import NEVER
from models.billing import key_expiry_mails, low_balance, mails
from models.billing.payments.buying import charge
from models.core import jobs, mail
from models.core.db import now
from models.core.errors import Invalid, NotFound
from models.core.mail import deliver_sealed
from models.core.settings import Settings
from models.ledger import Account
from models.orgs import OrgAlert
from tests import factories
from tests.billing.stage import Desk
from tests.chromium import WIDTHS, OpenPage, judge, serving
from tests.factories import Person


class Inbox:
    """The messages of an SMTP server; runs the mail jobs of the queue."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.received: list[EmailMessage] = []
        self.raw: list[bytes] = []
        self.settings: Settings = desk.settings

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        received = message_from_bytes(envelope.content, policy=policy.default)
        assert isinstance(received, EmailMessage)
        self.received.append(received)
        self.raw.append(envelope.content)
        return "250 OK"

    def fetch(self) -> list[EmailMessage]:
        """Run the queued mail jobs; returns the messages that arrived."""
        before = len(self.received)
        for args in self._take("billing.send_mail"):
            self.desk.run(mails.send_recorded, args["mail_id"])
        for args in self._take("mail.deliver"):
            deliver_sealed(self.settings, args["sealed"])
        return self.received[before:]

    def subjects(self) -> list[str]:
        return [str(each["Subject"]) for each in self.fetch()]

    def _take(self, task: str) -> list[dict[str, Any]]:
        session = self.desk.session
        session.rollback()
        query = text("SELECT id, args FROM procrastinate_jobs WHERE task_name = :task ORDER BY id")
        rows = session.execute(query, {"task": task}).all()
        session.execute(text("SET LOCAL session_replication_role = replica"))
        session.execute(text("DELETE FROM procrastinate_jobs WHERE task_name = :task"), {"task": task})
        session.commit()
        return [row.args for row in rows]


@pytest.fixture
def inbox(desk: Desk) -> Iterator[Inbox]:
    inbox = Inbox(desk)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    controller = Controller(inbox, hostname="127.0.0.1", port=port)
    controller.start()
    inbox.settings = Settings(
        _env_file=None,
        **desk.settings.model_dump() | {"smtp_url": f"smtp://127.0.0.1:{port}"},  # type: ignore[arg-type]
    )
    yield inbox
    controller.stop()


def part(message: EmailMessage, kind: str = "plain") -> str:
    """The text or the HTML of a message, in one line."""
    found = message.get_body((kind,))
    assert found
    return " ".join(str(found.get_content()).split())


def test_a_purchase_has_one_receipt(desk: Desk, inbox: Inbox, alice: Person) -> None:
    desk.bought(alice, 1234)
    desk.deliver_events()
    desk.deliver_events()
    (receipt,) = inbox.fetch()
    assert (receipt["To"], receipt["Subject"]) == ("alice@example.org", "Receipt for 1,234 credits")
    for body in (part(receipt), part(receipt, "html")):
        assert "$12.34" in body
        assert "Visa ending in 4242" in body
        assert desk.purchase(alice).id in body
    assert receipt["List-Unsubscribe"] is None
    desk.deliver_events()
    assert inbox.fetch() == []


def test_a_declined_card_has_no_receipt(desk: Desk, inbox: Inbox, alice: Person) -> None:
    desk.card(alice, "declined")
    desk.buy(alice)
    desk.deliver_events()
    assert inbox.fetch() == []


def test_an_automatic_top_up_has_one_mail(desk: Desk, inbox: Inbox, alice: Person) -> None:
    from models.billing.payments import cards
    from models.billing.payments.buying import begin

    desk.card(alice)
    customer = desk.customer(alice)
    operation = f"auto-topup-{alice.id}-2026-11-29T10:00"
    desk.run(begin, operation, Account(user_id=alice.id), alice.id, "auto_topup", 1000, customer)
    card = desk.run(cards.default_card, customer)
    assert card
    assert desk.run(charge, operation, card.id, card.type, cancel_failed=True).paid
    assert [mail["Subject"] for mail in inbox.fetch()] == ["Automatic top-up: 1,000 credits added"]


def test_each_refund_mail_has_the_credits_taken_back(desk: Desk, inbox: Inbox, alice: Person) -> None:
    purchase = desk.bought(alice, 1000)
    inbox.fetch()
    desk.refund(purchase, 250)
    for _ in range(3):
        desk.deliver_events()
    (message,) = inbox.fetch()
    assert message["Subject"] == "Refund of $2.50"
    assert "Credits taken back with this refund: 250 credits." in part(message)
    assert "Balance now: 750 credits" in part(message)
    assert message["List-Unsubscribe"] is None
    desk.refund(purchase, 750)
    desk.deliver_events()
    (message,) = inbox.fetch()
    assert message["Subject"] == "Refund of $7.50"
    assert "$10.00 in total" in part(message)
    assert "Balance now: 0 credits" in part(message)


def test_a_refund_mail_of_spent_credits_has_the_debt(desk: Desk, inbox: Inbox, alice: Person) -> None:
    purchase = desk.bought(alice, 1000)
    inbox.fetch()
    ledger.charge(Account(user_id=alice.id), 900, cause="test")
    desk.session.commit()
    desk.refund(purchase, 1000)
    desk.deliver_events()
    (message,) = inbox.fetch()
    assert "with a debt of 900 credits" in part(message)


def test_a_dispute_its_freeze_and_its_end_have_one_mail_each(desk: Desk, inbox: Inbox, alice: Person) -> None:
    purchase = desk.bought(alice, 1000)
    inbox.fetch()
    dispute = desk.dispute(purchase)
    for _ in range(2):
        desk.deliver_events()
    opened, frozen = inbox.fetch()
    assert opened["Subject"] == "A payment of $10.00 is disputed"
    assert "Taken back until the dispute is decided: 1,000 credits." in part(opened)
    assert frozen["Subject"] == "Your account cannot buy credits"
    desk.stripe.win(dispute["id"])
    for _ in range(2):
        desk.deliver_events()
    (closed,) = inbox.fetch()
    assert closed["Subject"] == "The dispute of $10.00 is closed"
    assert "Credits returned to the account: 1,000 credits." in part(closed)
    for message in (opened, frozen, closed):
        assert message["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"


def test_the_mail_of_a_lost_dispute_has_the_credits_taken_back(
    desk: Desk, inbox: Inbox, alice: Person
) -> None:
    purchase = desk.bought(alice, 1000)
    desk.stripe.lose(desk.dispute(purchase)["id"])
    desk.deliver_events()
    subjects = inbox.subjects()
    assert subjects[0] == "Receipt for 1,000 credits"
    assert set(subjects[1:]) == {"The dispute of $10.00 is closed", "Your account cannot buy credits"}
    assert "1,000 credits of the purchase stay taken back" in part(inbox.received[1])


def test_events_in_parallel_send_one_mail(desk: Desk, inbox: Inbox, alice: Person) -> None:
    purchase = desk.bought(alice, 1000)
    inbox.fetch()
    desk.refund(purchase, 500)
    (event,) = desk.events("charge.refunded")
    with ThreadPoolExecutor(10) as pool:
        list(pool.map(lambda _: desk.deliver(event), range(10)))
    desk.work()
    assert inbox.subjects() == ["Refund of $5.00"]


def test_a_mail_is_enqueued_only_if_its_cause_commits(desk: Desk, inbox: Inbox, alice: Person) -> None:
    desk.bought(alice)
    inbox.fetch()
    assert mails.enqueue("receipt", "receipt/again", alice.id, {})
    desk.session.rollback()
    assert inbox.fetch() == []


def test_the_worker_sends_the_mails_of_events(
    desk: Desk, alice: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    sealed: list[str] = []
    monkeypatch.setattr(mail, "deliver_sealed", lambda _, message: sealed.append(message))
    desk.stripe.pay(desk.buy(alice).json["sessionId"])
    for event in desk.events("checkout.session.completed", "payment_intent.succeeded"):
        desk.deliver(event)
    with ThreadPoolExecutor(1) as pool:
        for _ in range(3):  # a run ends when no job is due, and its last job may have enqueued another
            pool.submit(jobs.work, desk.app.app_context, wait=False).result()
    assert desk.balance(alice) == 1000
    assert len(sealed) == 1


# --- unsubscribing --------------------------------------------------------------------------------------------------


def _links(inbox: Inbox) -> list[str]:
    """The paths of the `List-Unsubscribe` headers as they were sent, unfolded and not encoded."""
    found = re.findall(
        rb"^List-Unsubscribe: <http://localhost:8000(/\S+)>\r$", b"\n".join(inbox.raw), re.MULTILINE
    )
    return [link.decode() for link in found]


def test_one_click_unsubscribes_signed_out_from_this_topic_only(
    desk: Desk, inbox: Inbox, alice: Person, anonymous: Person
) -> None:
    purchase = desk.bought(alice, 1000)
    inbox.fetch()
    desk.dispute(purchase)
    desk.deliver_events()
    inbox.fetch()
    link = _links(inbox)[0]
    page = anonymous.browser.get(link)
    assert page.status_code == 200
    assert "Unsubscribe?" in page.text
    for private in ("alice", alice.id, "10.00", purchase.id):
        assert private not in page.text.replace(link, "")
    assert mails.opt_outs(alice.id) == frozenset()  # a GET changes nothing
    for _ in range(2):
        answer = anonymous.browser.post(
            link, data={"List-Unsubscribe": "One-Click"}, headers={"Origin": "https://mail.example.com"}
        )
        assert (answer.status_code, "Unsubscribed" in answer.text) == (200, True)
    desk.session.rollback()
    assert mails.opt_outs(alice.id) == {"disputes"}
    desk.stripe.win(desk.sim.find("dispute")[0]["id"])
    desk.refund(purchase, 300)
    desk.deliver_events()
    assert inbox.subjects() == ["Refund of $3.00"]
    skipped = desk.session.execute(text("SELECT skipped FROM billing_mail WHERE kind = 'dispute_closed'"))
    assert skipped.scalar_one() == "unsubscribed"


@pytest.mark.parametrize("token", ["x", "WyJhIiwiZGlzcHV0ZXMiXQ.AAAA", "a" * 3000])
def test_a_forged_link_is_not_found(desk: Desk, alice: Person, anonymous: Person, token: str) -> None:
    forged = mails.unsubscribe_token(alice.id, "disputes")[:-2] + "xx"
    for each in (token, forged):
        assert anonymous.browser.get(mails.UNSUBSCRIBE_PATH + each).status_code == 404
        assert anonymous.browser.post(mails.UNSUBSCRIBE_PATH + each).status_code == 404
    with pytest.raises(NotFound):
        mails.unsubscribe(token)
    assert mails.opt_outs(alice.id) == frozenset()


def test_the_settings_page_saves_threshold_and_topics(
    desk: Desk, alice: Person, mallory: Person, anonymous: Person
) -> None:
    page = alice.browser.get("/profile?tab=emails")
    assert 'value="100"' in page.text
    assert anonymous.browser.get("/profile?tab=emails").status_code == 302
    token = page.text.partition('name="csrf_token" value="')[2].partition('"')[0]
    bad = {"csrf_token": token, "threshold": "many"}
    answer = alice.browser.post("/profile/emails", data=bad)
    assert (answer.status_code, "Enter a whole number" in answer.text) == (422, True)
    good = {"csrf_token": token, "threshold": "2,500", "topic": [*mails.TOPICS.keys() - {"disputes"}]}
    assert alice.browser.post("/profile/emails", data=good).status_code == 303
    assert anonymous.browser.post("/profile/emails", data=good).status_code in (303, 400, 403)
    assert alice.browser.post("/profile/emails", data=good | {"topic": ["receipts"]}).status_code == 422
    desk.session.rollback()
    assert mails.opt_outs(alice.id) == {"disputes"}
    assert low_balance.low_balance_threshold(Account(user_id=alice.id)) == 2500
    assert low_balance.low_balance_threshold(Account(user_id=mallory.id)) == 100


# --- keys that expire ----------------------------------------------------------------------------------------------


LIFETIMES: list[tuple[float | None, float | None, str | None]] = [
    # days that a key lasts, days left, and what the e-mail says
    (365, 8, None),
    (365, 6.99, "7 days"),
    (365, 5.5, None),
    (365, 0.99, "1 day"),
    (365, -0.1, None),
    (10, 6.5, None),
    (10, 0.5, "1 day"),
    (1, 0.9, None),
    (1 / 24, 0.02, None),
    (None, None, None),
]


def test_an_expiring_key_is_announced_once_to_its_owner(
    desk: Desk, inbox: Inbox, alice: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_expiry_mails, "BATCH", 1)
    moment, announced = now(), []
    assert alice.user
    for number, (lasts, left, notice) in enumerate(LIFETIMES):
        expires = NEVER if left is None else moment + timedelta(days=left)
        made = moment if lasts is None else expires - timedelta(days=lasts)
        factories.token(alice.user, name=f"Key {number}", expires=expires, created_at=made)
        announced += [f"Key {number} expires in {notice}"] if notice else []
    assert desk.run(key_expiry_mails.announce_expiring, moment) == len(announced)
    assert desk.run(key_expiry_mails.announce_expiring, moment) == 0
    received = inbox.fetch()
    assert sorted(str(each["Subject"]) for each in received) == announced
    for each in received:
        assert each["To"] == "alice@example.org"
        assert "/profile?tab=api-keys" in part(each)
        assert each["List-Unsubscribe"]


def test_keys_of_organisations_are_announced_to_owner_and_managers(
    desk: Desk, inbox: Inbox, alice: Person, bob: Person
) -> None:
    """Not to members, nor to strangers; not of keys that are off; and not to whoever unsubscribed."""
    assert alice.user
    assert bob.user
    org = factories.org(alice.user, members=(bob.user,))
    admin, member = factories.user("admin"), factories.user("member")
    factories.join(org, admin.id, "admin")
    factories.join(org, member.id)
    times = {"expires": now() + timedelta(hours=20), "created_at": now() - timedelta(days=90)}
    factories.token(bob.user, name="CI\t\n", org_id=org.id, **times)
    factories.token(bob.user, name="Off", org_id=org.id, disabled_at=now(), **times)
    mails.unsubscribe(mails.unsubscribe_token(admin.id, "keys"))
    desk.session.commit()
    desk.run(key_expiry_mails.announce_expiring, now())
    received = {str(each["To"]): part(each) for each in inbox.fetch()}
    assert received.keys() == {"alice@example.org", "bob@example.org"}
    assert all("CI" in text and "/orgs/acme/keys" in text for text in received.values())
    assert "of bob" in received["alice@example.org"].lower()
    assert "of bob" not in received["bob@example.org"].lower()


# --- low balance ----------------------------------------------------------------------------------------------------


def _spend(desk: Desk, who: Person, credits: int) -> None:
    """A settled call, and what it cost."""
    assert who.user
    desk.session.rollback()
    ledger.charge(Account(user_id=who.id), credits, cause=factories.new_id("call-"))
    desk.session.commit()
    factories.message(who.user, finished_at=now())


def test_a_low_balance_has_one_mail_per_crossing(desk: Desk, inbox: Inbox, alice: Person) -> None:
    assert alice.user
    account = Account(user_id=alice.id)
    ledger.grant(account, 1000, "admin", operation_id="g1", description="x")
    desk.session.commit()
    _spend(desk, alice, 899)
    assert desk.run(low_balance.watch_balances) == 0  # 101 left
    _spend(desk, alice, 41)
    assert desk.run(low_balance.watch_balances) == 1
    _spend(desk, alice, 10)
    assert desk.run(low_balance.watch_balances) == 0
    (message,) = inbox.fetch()
    assert message["Subject"] == "60 credits left"
    assert "fell below 100 credits" in part(message)
    assert "/profile?tab=emails" in part(message)
    assert message["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    # up and down again between two checks
    ledger.grant(account, 1000, "admin", operation_id="g2", description="x")
    desk.session.commit()
    _spend(desk, alice, 1100)
    assert desk.run(low_balance.watch_balances) == 1
    (message,) = inbox.fetch()
    assert message["Subject"] == "Your account is 50 credits in debt"


def test_a_low_balance_matters_to_a_subscriber_who_continues_with_credits(
    desk: Desk, inbox: Inbox, alice: Person
) -> None:
    assert alice.user
    factories.subscription(alice.user)
    ledger.grant(Account(user_id=alice.id), 1000, "admin", operation_id="g1", description="x")
    desk.session.commit()
    _spend(desk, alice, 950)
    assert desk.run(low_balance.watch_balances) == 0
    alice.user.fallback_to_a_la_carte = True
    desk.session.commit()
    _spend(desk, alice, 10)
    assert desk.run(low_balance.watch_balances) == 1
    (message,) = inbox.fetch()
    assert message["Subject"] == "40 credits left"


def test_an_account_may_choose_its_threshold(desk: Desk, inbox: Inbox, alice: Person, bob: Person) -> None:
    for who, threshold in ((alice, 0), (bob, 600)):
        ledger.grant(Account(user_id=who.id), 1000, "admin", operation_id=f"g-{who.id}", description="x")
        low_balance.set_low_balance_threshold(Account(user_id=who.id), threshold)
        desk.session.commit()
        _spend(desk, who, 500)
    _spend(desk, alice, 499)
    assert desk.run(low_balance.watch_balances) == 1
    (message,) = inbox.fetch()
    assert (message["To"], message["Subject"]) == ("bob@example.org", "500 credits left")
    with pytest.raises(Invalid):
        low_balance.set_low_balance_threshold(Account(user_id=bob.id), -1)


def test_concurrent_checks_send_one_mail(desk: Desk, inbox: Inbox, alice: Person) -> None:
    ledger.grant(Account(user_id=alice.id), 150, "admin", operation_id="g", description="x")
    desk.session.commit()
    _spend(desk, alice, 100)
    with ThreadPoolExecutor(8) as pool:
        sent = list(pool.map(lambda _: desk.run(low_balance.watch_balances), range(8)))
    assert sum(sent) == 1
    assert len(inbox.fetch()) == 1


def test_an_organisations_low_balance_is_an_alert_instead(
    desk: Desk, inbox: Inbox, alice: Person, bob: Person
) -> None:
    assert alice.user
    assert bob.user
    org = factories.org(alice.user, "Acme", members=(bob.user,))
    ledger.grant(
        Account(org_id=org.id), 150, "organization", operation_id="g", description="x", buyer_id=bob.id
    )
    ledger.charge(Account(org_id=org.id), 100, cause="call")
    desk.session.commit()
    factories.message(bob.user, org_id=org.id, finished_at=now() - timedelta(seconds=5))
    assert desk.run(low_balance.watch_balances) == 0
    desk.run(jobs.watch_orgs, 0)
    assert desk.session.scalars(select(OrgAlert.message)).all() == ["Organization has 50 credits remaining"]


# --- in a browser ---------------------------------------------------------------------------------------------------


def test_pages_are_accessible(desk: Desk, alice: Person, open_page: OpenPage) -> None:
    link = mails.UNSUBSCRIBE_PATH + mails.unsubscribe_token(alice.id, "balance")
    with serving(desk.app) as base, open_page(base, width=390) as page:
        page.goto(link)
        judge(page, *WIDTHS)
        page.get_by_role("button", name="Unsubscribe").click()
        page.get_by_role("heading", name="Unsubscribed").wait_for()
        cookie = alice.browser.get_cookie("next-auth.session-token")
        assert cookie
        page.context.add_cookies([{"name": cookie.key, "value": cookie.value, "url": base}])
        page.goto("/profile?tab=emails")
        judge(page, *WIDTHS)
        page.get_by_label("Low balance threshold").fill("0")
        page.get_by_label("Disputes").uncheck()
        page.get_by_role("button", name="Save").click()
        page.get_by_text("E-mail settings saved.").wait_for()
    desk.session.rollback()
    assert mails.opt_outs(alice.id) == {"balance", "disputes"}
    assert low_balance.low_balance_threshold(Account(user_id=alice.id)) == 0
