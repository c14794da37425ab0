"""The budgets of a team end with it."""

from sqlalchemy import select

from models.core.db import db
from models.ledger.budget_tables import Budget
from models.ledger.budgets import end_budget
from models.ledger.credit_operations import Account
from models.orgs.team_editing import team_deleting


@team_deleting.connect
def end_team_budgets(org_id: str, team_id: str) -> int:
    """End the budgets of the team that is about to be deleted. Locks the organisation's account. Returns how many there were."""
    query = select(Budget.id).where(
        Budget.account_id == org_id,
        Budget.level == "team",
        Budget.subject == team_id,
        Budget.ended_at.is_(None),
    )
    found = db.session.scalars(query).all()
    for budget_id in found:
        end_budget(Account(org_id=org_id), budget_id)
    return len(found)
