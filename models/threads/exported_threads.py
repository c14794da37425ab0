"""Threads as files: all branches of one as JSON, a branch of it as Markdown, all of a person's for the export of their data, and what an
organisation paid for in its archive."""

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

from sqlalchemy import Select, select
from sqlalchemy.engine import Engine

from models.core.csv_text import csv_cell
from models.core.db import db
from models.core.personal_export import add_csv, add_json_lines, batches
from models.threads.message_store import stream_path
from models.threads.thread import Thread, ThreadMessage
from models.threads.thread_share import ThreadShare
from models.threads.tree import MESSAGE_KEYS

BATCH = 200
_WHO = {"user": "You", "assistant": "Assistant", "system": "System", "tool": "Tool"}


def export_json(thread: Thread) -> Iterator[str]:
    """The thread with the messages of all its branches, by `seq`: one JSON object. Reads batches, each on its own connection that is returned
    before the batch is yielded; needs the application context only when called."""
    return _json(db.engine, thread.id, thread_json(thread))


def export_markdown(thread: Thread, head_id: str | None = None) -> Iterator[str]:
    """The branch up to `head_id` (default: the one that is shown) to read: Markdown. Reads as `export_json` does."""
    leaf_id = head_id or thread.head_id
    return _markdown(thread.name, thread.instructions, stream_path(thread.id, leaf_id) if leaf_id else ())


def thread_json(thread: Thread) -> dict[str, Any]:
    """The thread as the API gives it, without its messages. Amounts are credits, times UTC."""
    return {
        "id": thread.id,
        "name": thread.name,
        "kind": thread.kind,
        "agent_id": thread.assistant_id,
        "instructions": thread.instructions,
        "model": thread.model,
        "storage_id": thread.storage_id,
        "metadata": thread.metadata_,
        "head_id": thread.head_id,
        "messages": thread.last_seq,
        "budget": thread.budget,
        "spent": thread.spent,
        "reserved": thread.reserved,
        "created_at": csv_cell(thread.created_at),
        "updated_at": csv_cell(thread.updated_at),
        "active_at": csv_cell(thread.active_at),
        "deleted_at": thread.deleted_at and csv_cell(thread.deleted_at),
    }


def _json(engine: Engine, thread_id: str, head: dict[str, Any]) -> Iterator[str]:
    yield f'{{"thread": {_compact(head)},\n"messages": ['
    opening, last = "\n", 0
    query = select(*_columns()).where(ThreadMessage.thread_id == thread_id).order_by(ThreadMessage.seq)
    while True:
        with engine.connect() as connection:
            page = query.where(ThreadMessage.seq > last).limit(BATCH)
            rows = connection.execute(page).mappings().all()
        for row in rows:
            yield opening + _compact({key: row[key] for key in MESSAGE_KEYS})
            opening = ",\n"
        if len(rows) < BATCH:
            break
        last = rows[-1]["seq"]
    yield "\n]}\n"


def _markdown(name: str, instructions: str | None, messages: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    yield f"# {' '.join(name.split())}\n"
    if instructions:
        yield "\n" + _quoted(instructions)
    for message in messages:
        who = _WHO[message["role"]] + (f" · {message['model']}" if message["model"] else "")
        yield f"\n## {who}\n\n{csv_cell(message['created_at'])}\n"
        for part in message["content"]:
            yield "\n" + _part(part)
        for call in message["tool_calls"] or ():
            function = call.get("function", {})
            yield "\n" + _fenced(f"{function.get('name')}({function.get('arguments')})")
        for cited in message["citations"] or ():
            if cited.get("valid"):
                yield "\n" + _quoted(f"【{cited['number']}】 {cited['quote']} ({cited['name']})")
        if message["state"] != "completed":
            yield f"\n*{message['finish_reason'] or message['state'].replace('_', ' ')}*\n"


def _part(part: Mapping[str, Any]) -> str:
    match part["type"]:
        case "text":
            return f"{part['text'].rstrip()}\n"
        case "image_url":
            url = part["image_url"]["url"]
            return "[Picture]\n" if url.startswith("data:") else f"![Picture](<{url}>)\n"
        case "file":
            return f"[File: {part['name']}]\n"
    return _quoted(part["text"])


def _quoted(text: str) -> str:
    return "".join(f"> {line}\n" for line in text.splitlines())


def _fenced(text: str) -> str:
    """The text in a block that no line of it ends."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}\n{text}\n{fence}\n"


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=csv_cell)


def _columns() -> list[Any]:
    return [ThreadMessage.__table__.c[key] for key in MESSAGE_KEYS]


# -- the export of a person's data ---------------------------------------------------------------------------


def _threads(user_id: str) -> Iterator[Mapping[str, Any]]:
    query: Select[*tuple[Any, ...]] = select(Thread.__table__).where(Thread.user_id == user_id)
    for row in batches(query, Thread.account_id, Thread.active_at, Thread.id):
        yield {**row, "account": row["account_id"]}


def _messages(user_id: str) -> Iterator[Mapping[str, Any]]:
    threads: Select[*tuple[Any, ...]] = select(Thread.id, Thread.account_id, Thread.active_at).where(
        Thread.user_id == user_id
    )
    for thread in batches(threads, Thread.account_id, Thread.active_at, Thread.id):
        query: Select[*tuple[Any, ...]] = select(*_columns()).where(ThreadMessage.thread_id == thread["id"])
        for row in batches(query, ThreadMessage.seq, size=BATCH):
            yield {**row, "thread": thread["id"]}


def _shares(user_id: str) -> Iterator[Mapping[str, Any]]:
    query: Select[*tuple[Any, ...]] = select(ThreadShare.__table__).where(ThreadShare.user_id == user_id)
    for row in batches(query, ThreadShare.created_at, ThreadShare.id):
        yield {**row, "thread": row["thread_id"], "message": row["head_id"]}


add_json_lines(
    "threads.jsonl",
    "Your threads, deleted ones that are not yet purged included.",
    {
        "id": "id of the thread",
        "account": "id of the account that pays: yours or an organisation's",
        "name": "name",
        "assistant_id": "assistant that answers",
        "instructions": "instructions of the thread",
        "model": "model of the thread",
        "storage_id": "id of your own choice",
        "metadata": "your pairs of text",
        "head_id": "newest message of the branch that is shown",
        "budget": "most that its answers may cost, in credits",
        "spent": "what its answers cost, in credits",
        "created_at": "when it was made",
        "updated_at": "when it was changed",
        "active_at": "when its last message was added",
        "deleted_at": "when it was deleted",
    },
    _threads,
)
add_json_lines(
    "thread_messages.jsonl",
    "The messages of your threads, in all branches.",
    {
        "thread": "id of the thread",
        "id": "id of the message",
        "seq": "number of the message in its thread",
        "parent_id": "message that it follows",
        "role": "user, assistant, system or tool",
        "state": "in_progress, completed or incomplete",
        "content": "parts: texts, pictures, files",
        "tool_calls": "tools that the model called",
        "tool_call_id": "call that a tool's message answers",
        "name": "name of the author or tool",
        "model": "model that wrote it",
        "finish_reason": "why the model ended",
        "citations": "quotes from documents",
        "message_id": "id of its bill, as message_id in statement.csv",
        "credits": "what it cost, in credits",
        "usage": "tokens",
        "metadata": "your pairs of text",
        "created_at": "when it was added",
        "completed_at": "when it was complete",
    },
    _messages,
)
add_csv(
    "thread_shares.csv",
    "Links that you made to threads. The secret of a link is not kept.",
    {
        "id": "id of the link",
        "thread": "id of the thread",
        "message": "last message that it shows",
        "created_at": "when it was made",
        "expires_at": "when it ends; empty: never",
        "revoked_at": "when it was revoked",
        "views": "how often it was opened",
    },
    _shares,
)


# -- the archive of an organisation --------------------------------------------------------------------------


def _threads_of_org(org_id: str) -> Iterable[Mapping[str, Any]]:
    """What the organisation pays for, and nothing that was said: threads are private to their people."""
    people = db.session.scalars(select(Thread.user_id).where(Thread.account_id == org_id).distinct()).all()
    return chain.from_iterable([_threads_of_member(org_id, each) for each in sorted(people)])


def _threads_of_member(org_id: str, user_id: str) -> Iterator[Mapping[str, Any]]:
    query: Select[*tuple[Any, ...]] = select(
        *(Thread.id, Thread.user_id, Thread.kind, Thread.assistant_id, Thread.model, Thread.budget),
        *(Thread.spent, Thread.created_at, Thread.active_at, Thread.deleted_at),
        Thread.last_seq.label("messages"),
    ).where(Thread.user_id == user_id, Thread.account_id == org_id)
    return batches(query, Thread.active_at, Thread.id)


add_csv(
    "threads.csv",
    "Threads that the organisation pays for, without their names and messages, which only their people read.",
    {
        "id": "id of the thread",
        "user_id": "whose it is",
        "kind": "the door that made it",
        "assistant_id": "assistant that answers",
        "model": "model of the thread",
        "messages": "number of its messages",
        "budget": "most that its answers may cost, in credits",
        "spent": "what its answers cost, in credits",
        "created_at": "when it was made",
        "active_at": "when its last message was added",
        "deleted_at": "when it was deleted",
    },
    _threads_of_org,
    owners=("organisation",),
)
