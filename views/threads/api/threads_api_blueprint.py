"""The blueprint of the JSON API of threads, who calls it, and what its routes have in common."""

from typing import NamedTuple

from flask import Blueprint, request

from models import threads
from models.core.errors import Invalid
from models.ledger import Account
from models.threads import Thread
from views.web.guards import require_key
from views.web.keyset import page_limit
from views.web.operation import Answers, path, query

bp = Blueprint("threads_api", __name__)

READ, WRITE = "threads:read", "threads:write"
PAGE, MAX_PAGE = 20, 100
THREAD_ID = path("id", "`id` of the thread, such as `thrd_…`")
LIMIT = query("limit", f"At most {MAX_PAGE}; {PAGE} by default")
CURSOR = query("cursor", "`next_cursor` of the previous page")
ERRORS: Answers = {
    404: "No such thread of yours, or no such assistant",
    422: "A field is unknown or wrong",
}


class ThreadCaller(NamedTuple):
    """Whose threads: those of the key's user that the key's account pays for."""

    user_id: str
    account: Account

    def thread(self, id: str, *, deleted: bool = False) -> Thread:
        """The caller's thread. Raises NotFound."""
        return threads.own_thread(self.user_id, self.account.id, id, deleted=deleted)


def thread_caller() -> ThreadCaller:
    """Who calls. Raises DomainError (401)."""
    found = require_key()
    return ThreadCaller(found.user.id, Account.of(found.session))


def page_size() -> int:
    """The query parameter `limit`. Raises Invalid."""
    return page_limit(PAGE, MAX_PAGE)


def flag(name: str) -> bool:
    """A query parameter that is true or false; without it false. Raises Invalid."""
    text = request.args.get(name, "false")
    if text not in ("true", "false"):
        raise Invalid(f"'{name}' must be true or false.")
    return text == "true"
