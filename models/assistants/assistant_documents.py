"""Documents of assistants: whoever may see an assistant reads them, whoever may edit it adds and deletes them."""

from models import index
from models.assistants.assistant_access import check_capability, readable_assistant
from models.core.errors import DomainError
from models.index import DocumentReader
from models.ledger import Account

SCOPE = "assistant"


def _reads(reader: DocumentReader, id: str) -> str | None:
    return _account_for(reader, id, "see_assistants")


def _writes(reader: DocumentReader, id: str) -> str | None:
    return _account_for(reader, id, "edit_assistants")


def _account_for(reader: DocumentReader, id: str, capability: str) -> str | None:
    if reader.user_id is None:
        return None
    own = reader.account_id == reader.user_id
    account = Account(user_id=reader.user_id) if own else Account(org_id=reader.account_id)
    try:
        readable_assistant(reader.user_id, account, id)
        check_capability(reader.user_id, account, capability)
    except DomainError:
        return None
    return reader.account_id


index.register_scope(SCOPE, _reads, _writes)
