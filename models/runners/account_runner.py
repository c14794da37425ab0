"""Runners of accounts: programs on people's own machines that take work, each with a key that opens nothing else."""

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, select, update

from models.accounts import Session, User, credentials, scopes
from models.accounts.api_keys import KeyRules
from models.core.audit_log import current_actor, record
from models.core.db import db
from models.core.errors import Conflict, Forbidden, Invalid, NotFound
from models.ledger import Account, lock_account
from models.orgs import can, membership
from models.runners.runner_tables import CONNECTED_FOR, HELD, Runner, RunnerAction, RunnerWork
from models.runners.work_news import tell_news

MAX_RUNNERS = 50
"""Of one account."""
MAX_LABELS = 20
NAME_CHARACTERS = 60
_LABEL = re.compile(r"[a-z0-9][a-z0-9._-]{0,39}")
RULES = KeyRules(permissions=(scopes.RUNNERS_WORK,))


class NoRunnerKey(Forbidden):
    """The key may serve as a runner, and belongs to none."""

    code = "no_runner"

    def __init__(self) -> None:
        super().__init__(
            "No runner has this key: it was removed, or the key is another one. Make a runner first."
        )


def checked_name(name: str) -> str:
    """The name of a runner in normal form. Raises Invalid (422)."""
    name = " ".join(name.split())
    if not name or len(name) > NAME_CHARACTERS or not name.isprintable():
        problem = f"Enter a name of at most {NAME_CHARACTERS} characters."
        raise Invalid(problem, fields={"name": problem})
    return name


def checked_labels(labels: Sequence[str]) -> list[str]:
    """Labels in normal form, each once. Raises Invalid (422)."""
    found = list(dict.fromkeys(each.strip().lower() for each in labels if each.strip()))
    wrong = next((each for each in found if not _LABEL.fullmatch(each)), None)
    if wrong is not None or len(found) > MAX_LABELS:
        problem = f"Enter at most {MAX_LABELS} labels of letters, digits, dots and dashes, such as gpu."
        raise Invalid(problem, fields={"labels": problem})
    return found


def create_runner(
    user: User,
    account: Account,
    *,
    name: str,
    labels: Sequence[str] = (),
    by: Session | None,
    days: float | None = None,
    limit: int | None = None,
    now: datetime,
) -> tuple[Runner, str]:
    """Make a runner of the account, the user's own or an organisation's, and its key, which is returned this once. `by` is the user's browser
    session; None for a caller who checked that the key which asks may make this one. Locks the account; flushes; writes the audit log. Raises
    Invalid (422), Conflict for a name that another runner has or beyond the limit, and as `credentials.create_key` does."""
    name, labels = checked_name(name), checked_labels(labels)
    lock_account(account)
    taken = db.session.scalars(select(Runner.name).where(Runner.account_id == account.id)).all()
    if name in taken:
        raise Conflict(
            f"Another runner is named '{name}'. Choose another name, or remove that one.", code="name_taken"
        )
    if len(taken) >= MAX_RUNNERS:
        raise Conflict(
            f"An account has at most {MAX_RUNNERS} runners. Remove one first.", code="limit_reached"
        )
    token, key = credentials.create_key(
        user,
        by=by,
        days=days,
        name=f"Runner {name}",
        limit=limit,
        now=now,
        org_id=account.org_id,
        rules=RULES,
    )
    row = Runner(
        account_id=account.id, created_by=user.id, key_id=key.session_token, name=name, labels=labels
    )
    db.session.add(row)
    db.session.flush()
    _audit(row, "runner.created", account.org_id, after={"name": name, "labels": labels})
    return row, token


def runners_of(account_id: str) -> Sequence[Runner]:
    """The account's runners, by name."""
    query = select(Runner).where(Runner.account_id == account_id)
    return db.session.scalars(query.order_by(Runner.name, Runner.id)).all()


def runner_of_account(account_id: str, id: str) -> Runner:
    """A runner of the account. Raises NotFound."""
    query = select(Runner).where(Runner.account_id == account_id, Runner.id == id)
    row = db.session.scalars(query).one_or_none() if "\0" not in id else None
    if row is None:
        raise NotFound("There is no such runner.")
    return row


def may_remove(user_id: str, row: Runner) -> bool:
    """Whether a person of the account removes this runner: whoever made it, and who manages keys."""
    if user_id in (row.created_by, row.account_id):
        return True
    member = membership(user_id, row.account_id)
    return member is not None and can(member, "manage_keys")


def check_removal(user_id: str, row: Runner) -> None:
    """Raise Forbidden unless the person may remove the runner."""
    if not may_remove(user_id, row):
        raise Forbidden("Only whoever made the runner, and owners and admins, remove it.")


def remove_runner(row: Runner) -> None:
    """Remove a runner and revoke its key: its next request is refused, and what it works on is lost. Flushes; writes the audit log."""
    held = (
        update(RunnerWork)
        .where(RunnerWork.runner_id == row.id, RunnerWork.state.in_(HELD))
        .values(state="lost", lease_until=None, ended_at=func.now(), error="The runner was removed.")
        .returning(RunnerWork.id)
    )
    lost = db.session.scalars(held).all()
    db.session.execute(delete(RunnerAction).where(RunnerAction.work_id.in_(lost)))
    for work_id in lost:
        tell_news(work_id)
    key = db.session.get(Session, row.key_id)
    org_id = key.org_id if key is not None else None
    _audit(row, "runner.removed", org_id, before={"name": row.name, "labels": row.labels})
    db.session.delete(row)
    db.session.flush()
    if key is not None:
        credentials.close(key)


def runner_of_key(session: Session) -> Runner:
    """The runner that has this key. Raises NoRunnerKey (403)."""
    query = select(Runner).where(Runner.key_id == session.session_token)
    row = db.session.scalars(query).one_or_none()
    if row is None:
        raise NoRunnerKey
    return row


def connected_runners(account_id: str, labels: Sequence[str] = ()) -> Sequence[Runner]:
    """The account's runners with these labels that asked for work a moment ago, by name."""
    recent = func.now() - CONNECTED_FOR
    query = select(Runner).where(
        Runner.account_id == account_id,
        Runner.last_seen_at > recent,
        Runner.labels.contains(list(labels)),
    )
    return db.session.scalars(query.order_by(Runner.name)).all()


def _audit(row: Runner, action: str, org_id: str | None, *, before: Any = None, after: Any = None) -> None:
    who = current_actor()
    record(
        action,
        row.id,
        actor=who.name,
        actor_id=who.id,
        before=before,
        after=after,
        ip=who.ip,
        request_id=who.request_id,
        org_id=org_id,
    )
