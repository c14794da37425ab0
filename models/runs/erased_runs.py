"""Erases the texts and share links of the runs of a person whose account is erased; the runs stay, as statistics count them."""

from datetime import datetime

from sqlalchemy import delete, select, update

from models.accounts.account_deletion import account_erasing
from models.accounts.users import User
from models.core.db import db
from models.runs.run import AgentRun, AgentStep
from models.runs.run_share import RunShare, revoke_shares_by


@account_erasing.connect
def _erasing(user: User, *, now: datetime) -> None:
    own = AgentRun.user_id == user.id, AgentRun.org_id.is_(None)
    runs = select(AgentRun.id).where(*own)
    db.session.execute(delete(RunShare).where(RunShare.run_id.in_(runs)))
    revoke_shares_by(user.id, now)  # to runs of organisations
    failed = update(AgentStep).where(AgentStep.agent_run_id.in_(runs), AgentStep.error_message.is_not(None))
    db.session.execute(failed.values(error_message=None))
    noted = AgentRun.tags.is_not(None) | AgentRun.error_message.is_not(None) | AgentRun.repo_url.is_not(None)
    db.session.execute(
        update(AgentRun).where(*own, noted).values(tags=None, error_message=None, repo_url=None)
    )
