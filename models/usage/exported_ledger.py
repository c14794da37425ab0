"""What an export of a user's data holds of their credits: the statement and the grants."""

from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import func, select

from models.core.jobs import transaction
from models.core.personal_export import ExportFile, add_csv, add_file, batches
from models.ledger import CreditLedger
from models.ledger.statement_check import COLUMNS
from models.usage.statement_export import statement_csv, statement_range

_MEANINGS = {
    "record": "opening, entry or closing",
    "account": "your user id",
    "id": "number of the entry",
    "created_at": "when",
    "kind": "grant, debit, expiry, revocation, reinstatement or debt_cleared",
    "amount": "whole credits; negative: taken",
    "grant_balance_after": "credits left of the grant",
    "balance_after": "credits left of all",
    "operation_id": "id of the grant",
    "cause": "what caused it",
    "message_id": "id of the call, as message in calls.csv",
    "previous_hash": "hash of the entry before",
    "hash": "hash of this entry",
    "proof": "proof that the entry is in a recorded head of the ledger",
}


def _statement(user_id: str) -> Iterator[str]:
    with transaction():
        entries = statement_range(user_id, None, None)
    yield from statement_csv(entries)


def _grants(user_id: str) -> Iterator[Mapping[str, Any]]:
    account = func.coalesce(CreditLedger.org_id, CreditLedger.user_id)
    query = select(CreditLedger.__table__).where(account == user_id)
    return batches(query, CreditLedger.operation_id)


add_file(
    ExportFile(
        "statement.csv",
        "Every change of your credits, exact, from the oldest on. It can be verified on the page Verify a statement.",
        {name: _MEANINGS[name] for name in COLUMNS},
        _statement,
    )
)
add_csv(
    "grants.csv",
    "Credits you were given or bought.",
    {
        "operation_id": "id of the grant",
        "type": "kind of credits",
        "description": "text on your statement",
        "principal": "whole credits given",
        "balance": "whole credits left; negative: debt",
        "priority": "the lowest is spent first",
        "created_at": "when",
        "expires_at": "expiry; empty: never",
    },
    _grants,
)
