"""Lists of one's own threads, and the search in their names and messages."""

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Select, Text, bindparam, func, literal_column, select, tuple_
from sqlalchemy.dialects.postgresql import TSQUERY

from models.core.db import db
from models.core.errors import Invalid
from models.threads.thread import OWNER_TERM, PROJECT_KIND, Thread, ThreadMessage

MAX_QUERY = 200
BEFORE, AFTER = 60, 140
"""Characters of a snippet before and after the first word found."""
_WORD = re.compile(r"\w+")


class ThreadFilter(NamedTuple):
    """Which threads of a person, paid by an account: with what their names or messages say, of an assistant, or with a `storage_id`; the
    deleted ones instead if `deleted`."""

    user_id: str
    account_id: str
    words: str = ""
    assistant_id: str | None = None
    storage_id: str | None = None
    deleted: bool = False


class Snippet(NamedTuple):
    """Where a message says what was searched: its text in pieces, of which every second one, from the second on, is a word found."""

    message_id: str
    pieces: list[str]


class ListedThread(NamedTuple):
    """A thread, and with words the newest message that has them; None if only the name has."""

    thread: Thread
    found: Snippet | None


def threads_page(filter: ThreadFilter, before: tuple[datetime, str] | None, limit: int) -> list[ListedThread]:
    """Threads, newest activity first, from the one after `before`. Raises Invalid for more than 200 characters of words."""
    if len(filter.words) > MAX_QUERY:
        problem = f"Search for at most {MAX_QUERY} characters."
        raise Invalid(problem, fields={"q": problem})
    if any("\x00" in (text or "") for text in filter[:5]):
        return []
    query = _own(filter)
    if before:
        query = query.where(tuple_(Thread.active_at, Thread.id) < tuple_(*before))
    query = query.order_by(Thread.active_at.desc(), Thread.id.desc()).limit(limit)
    if not filter.words.strip():
        return [ListedThread(thread, None) for thread in db.session.scalars(query)]
    return _search(filter, query)


def _own(filter: ThreadFilter) -> Select[Thread]:
    query = select(Thread).where(Thread.user_id == filter.user_id, Thread.account_id == filter.account_id)
    query = query.where(Thread.kind != PROJECT_KIND)
    query = query.where(Thread.deleted_at.is_not(None) if filter.deleted else Thread.deleted_at.is_(None))
    if filter.assistant_id is not None:
        query = query.where(Thread.assistant_id == filter.assistant_id)
    if filter.storage_id is not None:
        query = query.where(Thread.storage_id == filter.storage_id)
    return query


def _search(filter: ThreadFilter, query: Select[Thread]) -> list[ListedThread]:
    named: ColumnElement[bool] = Thread.name.icontains(filter.words.strip(), autoescape=True)
    terms = _terms(filter.words)
    if not terms:
        return [ListedThread(thread, None) for thread in db.session.scalars(query.where(named))]
    says = ThreadMessage.terms.bool_op("@@")(_of_owner(terms, filter.user_id))
    hits = (
        select(ThreadMessage.thread_id, func.max(ThreadMessage.seq).label("seq"))
        .where(says)
        .group_by(ThreadMessage.thread_id)
        .cte("hit")
    )
    joined: Select[Any] = query.add_columns(hits.c.seq).outerjoin(hits, hits.c.thread_id == Thread.id)
    rows: Sequence[Any] = db.session.execute(joined.where(named | hits.c.seq.is_not(None))).all()
    snippets = _snippets([(row[0].id, row[1]) for row in rows if row[1]], filter.words)
    return [ListedThread(row[0], snippets.get(row[0].id)) for row in rows]


def _terms(words: str) -> str:
    """What the words mean to PostgreSQL: all of them, "quoted" ones in this order, -without some. Whole words only: the beginning of one would
    be looked for among everybody's. Empty for no word."""
    parsed = func.websearch_to_tsquery(literal_column("'simple'::regconfig"), words)
    return str(db.session.scalar(select(parsed.cast(Text))))


def _of_owner(terms: str, user_id: str) -> ColumnElement[Any]:
    owner = f"{OWNER_TERM}{user_id}".replace("\\", "\\\\").replace("'", "''")
    # written into the statement: PostgreSQL parses a parameter of a prepared statement anew for every row
    return bindparam(None, f"({terms}) & '{owner}'", Text, literal_execute=True).cast(TSQUERY)


def _snippets(hits: list[tuple[str, int]], words: str) -> dict[str, Snippet]:
    """The snippets of the messages with these `seq`, by their threads."""
    query = select(ThreadMessage.thread_id, ThreadMessage.id, ThreadMessage.text).where(
        tuple_(ThreadMessage.thread_id, ThreadMessage.seq).in_(hits)
    )
    return (
        {row[0]: Snippet(row[1], snippet(row[2], words)) for row in db.session.execute(query)} if hits else {}
    )


def snippet(text: str, words: str) -> list[str]:
    """The surroundings of the first of the words in the text, in pieces: every second one, from the second on, is a word found."""
    wanted = {word.lower() for word in _WORD.findall(words)}
    first = next((each.start() for each in _WORD.finditer(text) if each[0].lower() in wanted), 0)
    start, end = max(first - BEFORE, 0), first + AFTER
    piece, last = " ".join(text[start:end].split()), 0
    pieces = []
    for each in _WORD.finditer(piece):
        if each[0].lower() in wanted:
            pieces += [piece[last : each.start()], each[0]]
            last = each.end()
    pieces.append(piece[last:])
    pieces[0] = ("… " if start else "") + pieces[0]
    pieces[-1] += " …" if end < len(text) else ""
    return pieces
