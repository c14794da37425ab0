"""Forgets the credentials of accounts that are erased; their sites end with their projects."""

from datetime import datetime

from sqlalchemy import delete

from models.accounts.account_deletion import account_erasing
from models.accounts.users import User
from models.core.db import db
from models.deployments.provider_credential import ProviderCredential
from models.orgs.founding import org_erased


@account_erasing.connect
def _erase_credentials(user: User, *, now: datetime) -> None:
    _forget_credentials(user.id)


@org_erased.connect
def _erase_org_credentials(org_id: str) -> None:
    _forget_credentials(org_id)


def _forget_credentials(account_id: str) -> None:
    db.session.execute(delete(ProviderCredential).where(ProviderCredential.account_id == account_id))
