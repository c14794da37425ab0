"""Stripe customers: created when an account first needs one; a job retries after failures.

Functions that call Stripe take several transactions, with none open during a request.
"""

import logging
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, func, select, update
from sqlalchemy.dialects.postgresql import insert

from models.accounts.users import User
from models.billing import stripe_api
from models.billing.payments.billing_details import ADDRESS, billing_address, billing_snapshot
from models.billing.stripe_api import StripeError, missing, plain
from models.core.db import db
from models.core.db import now as utc_now
from models.core.errors import NotFound
from models.core.jobs import transaction
from models.ledger import Account, SyncFailure
from models.orgs import Org

log = logging.getLogger("stoa.billing")

MAX_TRIES = 5
REPAIR_PREFIX = "customer-"
"""Prefix of the id of a sync failure; the account's id follows."""
PROVIDER = "stripe"


def customer_of(account: Account) -> str | None:
    """The account's Stripe customer, if it has one."""
    if account.org_id:
        return db.session.scalars(
            select(Org.stripe_customer_id).where(Org.id == account.org_id)
        ).one_or_none()
    return db.session.scalars(select(User.stripe_customer_id).where(User.id == account.user_id)).one_or_none()


def account_of_customer(customer_id: str) -> Account | None:
    """The account of a Stripe customer, or None."""
    user = db.session.scalars(select(User.id).where(User.stripe_customer_id == customer_id)).one_or_none()
    if user is not None:
        return Account(user_id=user)
    org = db.session.scalars(select(Org.id).where(Org.stripe_customer_id == customer_id)).one_or_none()
    return Account(org_id=org) if org is not None else None


def ensure_customer(account: Account, *, instead_of: str = "") -> str:
    """The account's Stripe customer, created if there is none. Takes transactions of its own; concurrent calls create one.

    `instead_of` is a customer that was deleted at Stripe: it makes the idempotency key a new one. After a failure the job
    `billing.repair_customers` tries again, at most five times. Raises StripeError, NotFound, BillingDisabled.
    """
    stripe_api.client()
    with transaction():
        found = customer_of(account)
        email, name = (None, None) if found else _person(account)
    if found is not None:
        return found
    try:
        made = _find_or_make(account, email, name, instead_of)
    except StripeError as error:
        with transaction():
            _note_failure(account, str(error.message))
        raise
    with transaction():
        kept = _keep(account, made)
        db.session.execute(delete(SyncFailure).where(SyncFailure.id == REPAIR_PREFIX + account.id))
    return kept


def replace_customer(account: Account, lost: str) -> str:
    """Create a customer that replaces one deleted at Stripe. Takes transactions of its own. Raises the errors of
    `ensure_customer`."""
    with transaction():
        for table in (Org, User):
            db.session.execute(
                update(table).where(table.stripe_customer_id == lost).values(stripe_customer_id=None)
            )
    return ensure_customer(account, instead_of=lost)


def send_billing_details(account_id: str) -> None:
    """Set name, address and tax ids of the account's Stripe customer, creating it if needed. Idempotent. Takes its own
    transactions. Skips a tax id that Stripe rejects, with a warning. Raises StripeError for anything else.
    """
    if not stripe_api.enabled():
        return
    with transaction():
        account, details = account_by_id(account_id), billing_address(billing_snapshot(account_id))
    if account is None or details is None:
        return
    customer = ensure_customer(account)
    address: Any = {name: getattr(details, name) for name in ADDRESS}
    desired = {(each.type, each.value) for each in details.tax_ids}
    with stripe_api.api_client() as client:
        client.v1.customers.update(customer, {"name": details.name, "address": address})
        for each in client.v1.customers.tax_ids.list(customer, {"limit": 100}).auto_paging_iter():
            if (each.type, each.value) in desired:
                desired.remove((each.type, each.value))
            else:
                client.v1.customers.tax_ids.delete(customer, each.id)
    for type, value in sorted(desired):
        params: Any = {"type": type, "value": value}
        try:
            with stripe_api.api_client() as client:
                client.v1.customers.tax_ids.create(customer, params)
        except StripeError as error:
            if error.unknown:
                raise
            log.warning("Stripe rejected a tax id of account %s: %s", account_id, error.message)


def send_email(user_id: str) -> None:
    """Set the e-mail address of the user's Stripe customer, and of those of the organisations that they own, to the user's present
    one. Creates no customer. Idempotent. Takes its own transactions. Raises StripeError.
    """
    if not stripe_api.enabled():
        return
    with transaction():
        email = db.session.scalar(select(User.email).where(User.id == user_id))
        of_orgs = select(Org.stripe_customer_id).where(Org.owner_id == user_id)
        own = select(User.stripe_customer_id).where(User.id == user_id)
        found = [each for query in (own, of_orgs) for each in db.session.scalars(query) if each]
    for customer in found if email else []:
        try:
            with stripe_api.api_client() as client:
                client.v1.customers.update(customer, {"email": email or ""})
        except StripeError as error:
            if not missing(error):
                raise
            log.warning("Stripe has no customer %s of user %s any more", customer, user_id)


def repair_customers(*, now: datetime | None = None) -> int:
    """Create the customers whose creation failed, with at most five attempts each and growing delays; returns how many were
    created."""
    if not stripe_api.enabled():
        return 0
    with transaction():
        waiting = [row.id.removeprefix(REPAIR_PREFIX) for row in _due(now or utc_now())]
        accounts = [account_by_id(id) for id in waiting]
    made = 0
    for account in filter(None, accounts):
        try:
            ensure_customer(account)
            made += 1
        except (StripeError, NotFound) as error:
            log.warning("no Stripe customer for account %s: %s", account.id, error.message)
    return made


def sync_failures(*, limit: int = 100) -> list[SyncFailure]:
    """Failed requests to Stripe and failed bookings, newest first, for operators."""
    query = select(SyncFailure).order_by(SyncFailure.last_attempt_at.desc(), SyncFailure.id).limit(limit)
    return list(db.session.scalars(query))


def retry_failure(id: str) -> None:
    """Allow five more attempts for a failure. Flushes. Raises NotFound."""
    changed: Any = db.session.execute(update(SyncFailure).where(SyncFailure.id == id).values(retry_count=0))
    if not changed.rowcount:
        raise NotFound("There is no failure with this id.")


def _person(account: Account) -> tuple[str, str | None]:
    """The e-mail address and name for Stripe. Raises NotFound."""
    query = select(User.email, User.name).where(User.id == account.user_id)
    if account.org_id:
        query = (
            select(User.email, Org.name)
            .join_from(Org, User, User.id == Org.owner_id)
            .where(Org.id == account.org_id)
        )
    row = db.session.execute(query).one_or_none()
    if row is None:
        raise NotFound("There is no such account.")
    return row[0], row[1]


def _find_or_make(account: Account, email: str | None, name: str | None, instead_of: str) -> str:
    key = "organizationId" if account.org_id else "userId"
    with stripe_api.api_client() as client:
        for customer in client.v1.customers.list({"email": email or "", "limit": 100}).auto_paging_iter():
            # created by a process that stopped before it stored the id
            if (plain(customer).get("metadata") or {}).get(key) == account.id:
                return customer.id
        made = client.v1.customers.create(
            {"email": email or "", "name": name or "", "metadata": {key: account.id}},
            {"idempotency_key": "-".join(filter(None, ("customer", account.id, email, instead_of)))},
        )
        return made.id


def _keep(account: Account, made: str) -> str:
    table: Any = Org if account.org_id else User
    db.session.execute(
        update(table)
        .where(table.id == account.id, table.stripe_customer_id.is_(None))
        .values(stripe_customer_id=made)
        .execution_options(synchronize_session=False)
    )
    row = db.session.get(table, account.id, populate_existing=True)
    if row is None:
        raise NotFound("There is no such account.")
    return str(row.stripe_customer_id)


def _note_failure(account: Account, error: str) -> None:
    values = {"id": REPAIR_PREFIX + account.id, "provider": PROVIDER, "last_error": error[:500]}
    db.session.execute(
        insert(SyncFailure)
        .values(values)
        .on_conflict_do_update(
            index_elements=["id"],
            set_={
                "last_error": values["last_error"],
                "last_attempt_at": func.now(),
                "retry_count": SyncFailure.retry_count + 1,
            },
        )
    )


def _due(now: datetime) -> list[SyncFailure]:
    rows = db.session.scalars(
        select(SyncFailure)
        .where(
            SyncFailure.provider == PROVIDER,
            SyncFailure.id.startswith(REPAIR_PREFIX, autoescape=True),
            SyncFailure.retry_count < MAX_TRIES,
        )
        .order_by(SyncFailure.last_attempt_at)
        .limit(100)
    )
    # 5, 10, 20, 40 minutes after the last attempt
    return [
        row for row in rows if row.last_attempt_at + timedelta(minutes=5 * 2 ** (row.retry_count - 1)) <= now
    ]


def account_by_id(id: str) -> Account | None:
    """The account of a user or an organisation with this id."""
    if db.session.get(User, id):
        return Account(user_id=id)
    return Account(org_id=id) if db.session.get(Org, id) else None
