"""Who may read and write the documents of a scope: each room registers the kinds of scopes that it has.

Those of an organisation's account are for the roles that see and edit its assistants."""

from collections.abc import Callable
from typing import NamedTuple

from models.core.errors import NotFound
from models.index.documents import Document, IndexScope, document_by_id
from models.orgs import can, membership


class DocumentReader(NamedTuple):
    """Who asks: a person, and the account that they act for."""

    account_id: str
    user_id: str | None


Access = Callable[[DocumentReader, str], str | None]
"""Returns the id of the account that owns the scope with this id, or None if the reader may not; never raises for any id."""

_kinds: dict[str, tuple[Access, Access]] = {}


def register_scope(kind: str, may_read: Access, may_write: Access) -> None:
    """Let documents belong to a kind of scope. The room of that kind calls it when it is imported."""
    _kinds[kind] = (may_read, may_write)


def readable_scope(reader: DocumentReader, kind: str, id: str) -> IndexScope:
    """The scope, if the reader may read its documents. Raises NotFound."""
    return _scope(reader, kind, id, 0)


def writable_scope(reader: DocumentReader, kind: str, id: str) -> IndexScope:
    """The scope, if the reader may add and delete documents there. Raises NotFound."""
    return _scope(reader, kind, id, 1)


def readable_document(reader: DocumentReader, id: str, *, write: bool = False) -> Document:
    """A document that the reader may read or, with `write`, delete. Raises NotFound, alike for unknown ids and others' documents."""
    document = document_by_id(id)
    if document is not None and document.scope_kind in _kinds:
        account_id = _kinds[document.scope_kind][write](reader, document.scope_id)
        if account_id == document.account_id:
            return document
    raise NotFound("Document not found.")


def _scope(reader: DocumentReader, kind: str, id: str, place: int) -> IndexScope:
    accesses = _kinds.get(kind)
    account_id = accesses[place](reader, id) if accesses and "\x00" not in id else None
    if account_id is None:
        raise NotFound(f"{kind.capitalize()} not found.")
    return IndexScope(account_id, kind, id)


def _reads_account(reader: DocumentReader, id: str) -> str | None:
    return id if reader.account_id == id and _may(reader, "see_assistants") else None


def _writes_account(reader: DocumentReader, id: str) -> str | None:
    return id if reader.account_id == id and _may(reader, "edit_assistants") else None


def _may(reader: DocumentReader, capability: str) -> bool:
    """Whether the account is the reader's own, or that of an organisation where their role has the capability."""
    if reader.user_id is None or reader.user_id == reader.account_id:
        return True
    member = membership(reader.user_id, reader.account_id)
    return member is not None and can(member, capability)


register_scope("account", _reads_account, _writes_account)
