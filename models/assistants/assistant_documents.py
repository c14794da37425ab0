"""Documents of assistants: whoever may run one has its files searched and may read them; whoever may edit it adds and deletes them."""

from models import index
from models.assistants.assistant_access import check_capability, readable_assistant
from models.core.errors import DomainError
from models.index import DocumentReader
from models.ledger import Account


def _account(reader: DocumentReader, id: str, capability: str) -> str | None:
    if reader.user_id is None:
        return None
    own = reader.account_id == reader.user_id
    account = Account(user_id=reader.user_id) if own else Account(org_id=reader.account_id)
    try:
        readable_assistant(reader.user_id, account, id)
        check_capability(reader.user_id, account, capability)
    except DomainError:
        return None
    return account.id


def may_read(reader: DocumentReader, id: str) -> str | None:
    """The account of the assistant, if the reader may run it."""
    return _account(reader, id, "run_assistants")


def may_write(reader: DocumentReader, id: str) -> str | None:
    """The account of the assistant, if the reader may edit it."""
    return _account(reader, id, "edit_assistants")


index.register_scope("assistant", may_read, may_write)
