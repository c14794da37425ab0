"""What an export of a user's data holds of the documents that they uploaded, and what their erasure removes."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Select, select

from models.accounts.account_deletion import account_erasing
from models.accounts.users import User
from models.core.personal_export import add_csv, batches
from models.index.document_purge import forget_account
from models.index.documents import Document
from models.orgs import org_erased


def _documents(user_id: str) -> Iterator[Mapping[str, Any]]:
    query: Select[*tuple[Any, ...]] = select(
        *(Document.id, Document.name, Document.media_type, Document.bytes, Document.sha256),
        *(Document.scope_kind, Document.scope_id, Document.state, Document.created_at, Document.deleted_at),
    ).where(Document.user_id == user_id)
    return batches(query, Document.id)


add_csv(
    "documents.csv",
    "Documents that you uploaded. Their content is at /api/v1/files/<id>/content.",
    {
        "id": "its id",
        "name": "the file's name",
        "media_type": "what it is",
        "bytes": "its size",
        "sha256": "SHA-256 of its content",
        "scope_kind": "what it belongs to: account, thread or assistant",
        "scope_id": "the id of that",
        "state": "whether its text was read",
        "created_at": "when you uploaded it",
        "deleted_at": "when it was deleted; it is removed 7 days later",
    },
    _documents,
)


@account_erasing.connect
def _erase(user: User, *, now: datetime) -> None:
    forget_account(user.id)


@org_erased.connect
def _erase_org(org_id: str) -> None:
    forget_account(org_id)
