"""Billing e-mails: recorded in the transaction of their cause, once by id; a job renders and queues each."""

from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeAlias

from itsdangerous import BadData, URLSafeSerializer
from sqlalchemy import ForeignKey, Index, delete, select
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.orm import Mapped, mapped_column

from models.accounts.users import User
from models.billing import stripe_api
from models.core import jobs, mail
from models.core.db import NOW, Base, db, extension
from models.core.db import now as utc_now
from models.core.errors import Invalid, NotFound
from models.core.mail import Email
from models.core.settings import Settings

TOPICS: dict[str, str] = {
    "balance": "Low balance",
    "disputes": "Disputes",
    "topups": "Automatic top-up",
    "plan": "Changes of your plan",
    "budgets": "Requests for budget",
    "keys": "Keys that expire",
}
"""What a user can unsubscribe from. Receipts, refunds, and what needs an action of the user are always sent."""

TOPIC_OF: dict[str, str | None] = {
    "receipt": None,
    "refund": None,
    "refund_failed": None,
    "dispute_opened": "disputes",
    "dispute_closed": "disputes",
    "buying_frozen": "disputes",
    "low_balance": "balance",
    "topup_charged": None,
    "topup_failed": "topups",
    "topup_card_needed": None,
    "topup_confirmation": None,
    "topup_cap_reached": "topups",
    "topup_off": None,
    "plan_started": None,
    "plan_renewed": None,
    "plan_changed": "plan",
    "plan_change_scheduled": "plan",
    "plan_canceling": "plan",
    "plan_ended": "plan",
    "plan_payment_failed": None,
    "plan_payment_reversed": None,
    "budget_requested": "budgets",
    "budget_decided": None,
    "key_expires": "keys",
}
UNSUBSCRIBE_PATH = "/emails/unsubscribe/"

ValuesAtSending: TypeAlias = Callable[[dict[str, Any], datetime], dict[str, Any] | None]
_values_at_sending: dict[str, ValuesAtSending] = {}


class BillingMail(Base):
    """An e-mail to one user. `facts` are its template's values, without secrets; `queued_at` is when it was handed to the
    mail queue; `skipped` is the reason why it was not: `unsubscribed`, `outdated`."""

    __tablename__ = "billing_mail"
    __table_args__ = (Index("idx_billing_mail_user", "user_id"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    user_id: Mapped[str] = mapped_column(ForeignKey("user.id", ondelete="CASCADE"))
    facts: Mapped[dict[str, Any]] = mapped_column(JSONB)
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    queued_at: Mapped[datetime | None]
    skipped: Mapped[str | None]


class MailOptOut(Base):
    """A topic from which a user has unsubscribed."""

    __tablename__ = "mail_opt_out"

    user_id: Mapped[str] = mapped_column(ForeignKey("user.id", ondelete="CASCADE"), primary_key=True)
    topic: Mapped[str] = mapped_column(primary_key=True)
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


def enqueue(kind: str, id: str, user_id: str, facts: dict[str, Any]) -> bool:
    """Record an e-mail and enqueue its job in the current transaction, once by `id`; whether it is new. Flushes."""
    if kind not in TOPIC_OF:
        raise ValueError(f"{kind} is no kind of billing mail")
    created = db.session.scalars(
        insert(BillingMail)
        .values(id=id, kind=kind, user_id=user_id, facts=facts)
        .on_conflict_do_nothing()
        .returning(BillingMail.id)
    ).one_or_none()
    if created is None:
        return False
    jobs.enqueue(jobs.send_billing_mail, mail_id=id)
    return True


def at_sending(kind: str) -> Callable[[ValuesAtSending], ValuesAtSending]:
    """Register a function that adds values to a kind of e-mail when it is rendered, in the transaction that queues it: for
    one-time links, since the mail queue is encrypted and `facts` are not. It gets the facts and the time (UTC), and returns
    None if the e-mail is no longer needed."""

    def register(values: ValuesAtSending) -> ValuesAtSending:
        _values_at_sending[kind] = values
        return values

    return register


def send_recorded(mail_id: str, *, now: datetime | None = None) -> None:
    """Render an e-mail and hand it to the mail queue, in the current transaction: the job behind `enqueue`. Idempotent;
    locks the record."""
    row = db.session.scalars(
        select(BillingMail).where(BillingMail.id == mail_id).with_for_update()
    ).one_or_none()
    if row is None or row.queued_at is not None or row.skipped is not None:
        return
    user = db.session.get_one(User, row.user_id)
    topic = TOPIC_OF[row.kind]
    if topic is not None and topic in opt_outs(user.id):
        row.skipped = "unsubscribed"
        return
    now = now or utc_now()
    if user.erased_at is not None:
        row.skipped = "outdated"
        return
    more = _values_at_sending[row.kind](row.facts, now) if row.kind in _values_at_sending else {}
    if more is None:
        row.skipped = "outdated"
        return
    mail.send(extension("settings"), compose(row, user, topic, more))
    row.queued_at = now


def compose(row: BillingMail, user: User, topic: str | None, more: dict[str, Any]) -> Email:
    """The e-mail of a record, with `more` values; the first line of its text is the subject. With `List-Unsubscribe` headers
    (RFC 8058) if it has a topic."""
    settings: Settings = extension("settings")
    unsubscribe = settings.base_url + UNSUBSCRIBE_PATH + unsubscribe_token(user.id, topic) if topic else None
    values = {
        **row.facts,
        **more,
        "sells": stripe_api.enabled(),
        "topic": TOPICS[topic].lower() if topic else None,
        "unsubscribe_url": unsubscribe,
    }
    headers = {}
    if unsubscribe:
        headers = {
            "List-Unsubscribe": f"<{unsubscribe}>",
            "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
        }
    return mail.composed(user.email, f"billing/{row.kind}", values, headers)


def credits_text(credits: int) -> str:
    """An amount of credits as text."""
    return f"{credits:,} credit{'' if credits == 1 else 's'}"


def balance_facts(net: int) -> dict[str, Any]:
    """A net balance in credits as text: what is left, and the debt if it is negative."""
    return {"balance": credits_text(max(net, 0)), "debt": credits_text(-net) if net < 0 else None}


# -- unsubscribing --------------------------------------------------------------------------------------------


def unsubscribe_token(user_id: str, topic: str) -> str:
    """A signed token that unsubscribes a user from a topic. It does not expire."""
    return str(_signer().dumps([user_id, topic]))


def topic_of_token(token: str) -> str:
    """The topic of a token. Raises NotFound for a token that this server did not sign."""
    return _opened(token)[1]


def unsubscribe(token: str) -> str:
    """Unsubscribe the token's user from its topic; returns the topic. Idempotent. Flushes. Raises NotFound."""
    user_id, topic = _opened(token)
    if db.session.scalars(select(User.id).where(User.id == user_id)).one_or_none() is not None:
        _opt_out(user_id, topic)
    return topic


def opt_outs(user_id: str) -> frozenset[str]:
    """The topics from which a user has unsubscribed."""
    return frozenset(db.session.scalars(select(MailOptOut.topic).where(MailOptOut.user_id == user_id)))


def subscribe_only(user_id: str, topics: set[str]) -> None:
    """Subscribe a user to exactly these topics. Flushes. Raises Invalid for an unknown topic."""
    if not topics <= TOPICS.keys():
        raise Invalid("There is no such topic.")
    db.session.execute(
        delete(MailOptOut).where(MailOptOut.user_id == user_id, MailOptOut.topic.in_(sorted(topics)))
    )
    for topic in sorted(TOPICS.keys() - topics):
        _opt_out(user_id, topic)


def _opt_out(user_id: str, topic: str) -> None:
    db.session.execute(insert(MailOptOut).values(user_id=user_id, topic=topic).on_conflict_do_nothing())


def _signer() -> URLSafeSerializer:
    return URLSafeSerializer(extension("settings").secret_key, salt="stoa-unsubscribe")


def _opened(token: str) -> tuple[str, str]:
    try:
        opened = _signer().loads(token)
    except BadData:
        opened = None
    if not isinstance(opened, list) or len(opened) != 2 or opened[1] not in TOPICS:
        raise NotFound("This link is not valid. Copy the complete link from the e-mail.")
    return str(opened[0]), str(opened[1])
