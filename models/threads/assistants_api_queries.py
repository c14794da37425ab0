"""What OpenAI's Assistants API reads and begins: pages of assistants, messages and runs, and runs themselves."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import Select, select, tuple_

from models import index
from models.accounts.key_format import PresentedKey
from models.assistants import Assistant, AssistantVersion, SavedAssistant
from models.assistants.assistant_access import check_capability, readable_assistant, runnable_assistant
from models.assistants.assistant_import import imported_id
from models.assistants.instruction_variables import render_instructions
from models.core.db import db
from models.core.errors import NotFound
from models.gateway.chat_format import BadCall
from models.ledger import Account
from models.threads import tree
from models.threads.assistants_api_objects import run_object, step_objects, tools_shown, turn_id
from models.threads.message_content import checked_metadata
from models.threads.thread import Thread, ThreadMessage
from models.threads.thread_turn_start import KIND, TurnRequest, ask
from models.turns import Turn, TurnInProgress
from models.turns.turn_verbs import active_turn

PAGE_SIZE = 50
Json = dict[str, Any]


class CursorPage(NamedTuple):
    """Which part of a list: `limit` objects in an order of time, behind the object `after`, or in front of the object `before`."""

    limit: int
    newest_first: bool
    after: str | None = None
    before: str | None = None


class Listed(NamedTuple):
    """A page of a list, and whether there is more in its direction."""

    data: list[Json]
    more: bool


def _keyset(
    query: Select[*tuple[Any, ...]],
    table: type[Assistant] | type[Turn],
    page: CursorPage,
    find: Callable[[str], Any],
) -> tuple[list[Any], bool]:
    """The rows of a page by time and id. `find` returns the row of a cursor. Raises NotFound."""
    backwards = page.after is None and page.before is not None
    newest_first = page.newest_first != backwards
    cursor = page.before if backwards else page.after
    key = tuple_(table.created_at, table.id)
    if cursor is not None:
        row = find(cursor)
        bound = tuple_(row.created_at, row.id)
        query = query.where(key < bound if newest_first else key > bound)
    order = (table.created_at, table.id)
    query = query.order_by(*(each.desc() if newest_first else each for each in order)).limit(page.limit + 1)
    rows = list(db.session.execute(query))
    found = rows[: page.limit]
    return (found[::-1] if backwards else found), len(rows) > page.limit


def assistants_list(user_id: str, account: Account, page: CursorPage) -> tuple[list[SavedAssistant], bool]:
    """A page of the account's assistants. Raises NotFound, Forbidden."""
    check_capability(user_id, account, "see_assistants")
    query = (
        select(Assistant, AssistantVersion)
        .join(AssistantVersion, AssistantVersion.assistant_id == Assistant.id)
        .where(AssistantVersion.version == Assistant.version)
        .where(Assistant.account_id == account.id, Assistant.deleted_at.is_(None))
    )
    rows, more = _keyset(
        query, Assistant, page, lambda id: readable_assistant(user_id, account, id).assistant
    )
    return [SavedAssistant(*row) for row in rows], more


# -- messages ------------------------------------------------------------------------------------------------


def messages_list(
    thread: Thread, page: CursorPage, run: str | None = None
) -> tuple[list[ThreadMessage], bool]:
    """A page of the messages shown: those of the user and the texts of the assistant; only those that a run wrote if one is named. Raises
    NotFound."""
    backwards = page.after is None and page.before is not None
    newest_first = page.newest_first != backwards
    cursor = page.before if backwards else page.after
    found: list[ThreadMessage] = []
    if run is not None:
        messages = _of_run(thread, run, cursor, newest_first)
    else:
        messages = _older(thread, cursor) if newest_first else _newer(thread, cursor)
    for message in messages:
        if _is_shown(message):
            found.append(message)
        if len(found) > page.limit:
            break
    kept = found[: page.limit]
    return (kept[::-1] if backwards else kept), len(found) > page.limit


def shown_message(thread: Thread, id: str) -> ThreadMessage:
    """A message that the API shows. Raises NotFound."""
    message = tree.message_of(thread, id)
    if message.removed_at is not None or not _is_shown(message):
        raise NotFound("There is no such message in this thread.")
    return message


def _is_shown(message: ThreadMessage) -> bool:
    if message.role == "assistant":
        return bool(message.text) or not message.tool_calls
    return message.role == "user"


def _of_run(thread: Thread, run: str, cursor: str | None, newest_first: bool) -> Iterator[ThreadMessage]:
    """What a run wrote, which is little, however long the thread is."""
    if "\x00" in run:
        return
    seq = ThreadMessage.seq
    query = select(ThreadMessage).where(
        ThreadMessage.thread_id == thread.id,
        ThreadMessage.turn_id == turn_id(run),
        ThreadMessage.role == "assistant",
        ThreadMessage.removed_at.is_(None),
    )
    if cursor is not None:
        at = tree.message_of(thread, cursor).seq
        query = query.where(seq < at if newest_first else seq > at)
    yield from db.session.scalars(query.order_by(seq.desc() if newest_first else seq))


def _older(thread: Thread, before: str | None) -> Iterator[ThreadMessage]:
    while True:
        found = tree.path(thread, before=before, limit=PAGE_SIZE)
        yield from found
        if len(found) < PAGE_SIZE:
            return
        before = found[-1].id


def _newer(thread: Thread, after: str | None) -> Iterator[ThreadMessage]:
    if after is None:
        yield from tree.walk(thread, size=PAGE_SIZE)
        return
    while True:
        found = tree.path(thread, after=after, limit=PAGE_SIZE)
        yield from found
        if len(found) < PAGE_SIZE:
            return
        after = found[-1].id


def assistants_of(messages: Sequence[ThreadMessage]) -> dict[str, str]:
    """The assistants that wrote these messages, by turn."""
    ids = {message.turn_id for message in messages if message.turn_id and message.role == "assistant"}
    query = select(Turn.id, Turn.request["assistant_id"].astext).where(Turn.id.in_(ids))
    return {row[0]: row[1] for row in db.session.execute(query) if row[1]} if ids else {}


def message_fields(thread: Thread | None, raw: Any, name: str = "") -> Json:
    """A message of a request as `tree.append` takes it. Raises BadCall, Invalid."""
    if not isinstance(raw, Mapping):
        raise BadCall(f"'{name}' must be an object.", param=name)
    if raw.get("role") not in ("user", "assistant"):
        where = _at(name, "role")
        raise BadCall(f"'{where}' must be 'user' or 'assistant'.", param=where)
    metadata = raw.get("metadata") or {}
    if not isinstance(metadata, Mapping):
        where = _at(name, "metadata")
        raise BadCall(f"'{where}' must be an object.", param=where)
    parts = _content(raw.get("content"), _at(name, "content"))
    parts += _attachments(thread, raw.get("attachments"), _at(name, "attachments"))
    return {"role": raw["role"], "content": parts, "metadata": checked_metadata(metadata)}


def _at(name: str, key: str) -> str:
    return f"{name}.{key}" if name else key


def _content(content: Any, name: str) -> list[Json]:
    if isinstance(content, str):
        if not content:
            raise BadCall(f"'{name}' is empty.", param=name)
        return [{"type": "text", "text": content}]
    if not isinstance(content, list) or not content:
        raise BadCall(f"'{name}' must be a string, or a list of parts.", param=name)
    parts: list[Json] = []
    for number, part in enumerate(content):
        where = f"{name}[{number}]"
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            parts.append({"type": "text", "text": part["text"]})
        elif kind == "image_url" and isinstance(part.get("image_url"), dict):
            parts.append({"type": "image_url", "image_url": part["image_url"]})
        elif kind == "image_file":
            raise BadCall("Files of images are not served here: send an 'image_url'.", param=where)
        else:
            raise BadCall(
                f"'{where}' must be {{type: text, text}} or {{type: image_url, image_url}}.", param=where
            )
    return parts


def _attachments(thread: Thread | None, given: Any, name: str) -> list[Json]:
    """Documents of the thread as parts of a message."""
    if not given:
        return []
    if not isinstance(given, list) or not all(isinstance(each, dict) for each in given):
        raise BadCall(f"'{name}' must be a list of objects.", param=name)
    documents = {each.id: each for each in index.documents_of("thread", thread.id)} if thread else {}
    parts: list[Json] = []
    for number, each in enumerate(given):
        document = documents.get(str(each.get("file_id")))
        if document is None:
            raise BadCall(
                "The file of an attachment must be a document of this thread: upload it to POST /api/v1/files with the thread's id first.",
                param=f"{name}[{number}].file_id",
            )
        parts.append({"type": "file", "document_id": document.id, "name": document.name})
    return parts


# -- runs ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RunRequest:
    """A run to begin. `tools` None: those of the assistant; `params` are those of chat completions."""

    assistant_id: str
    model: str | None = None
    instructions: str | None = None
    additional_instructions: str | None = None
    messages: Sequence[Mapping[str, Any]] = ()
    tools: Sequence[Any] | None = None
    tool_choice: Any = None
    params: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    org_id: str | None = None


def begin_run(thread: Thread, account: Account, asked: RunRequest, key: PresentedKey, owner: str) -> Turn:
    """Begin a run, as `ask` does. One that a budget has paused makes room for it. Raises BadCall while another one of the thread is active,
    NotFound, Forbidden, AgentDeleted, Invalid."""
    saved = runnable_assistant(thread.user_id, account, imported_id(account, asked.assistant_id))
    version = saved.version
    texts = [asked.instructions, asked.additional_instructions]
    tools = None if asked.tools is None else [tool for tool in asked.tools if not isinstance(tool, str)]
    replaces = [
        name
        for name, given in (("instructions", asked.instructions), ("tools", asked.tools))
        if given is not None
    ]
    wanted = TurnRequest(
        model=asked.model,
        params=asked.params,
        instructions="\n\n".join(text for text in texts if text) or None,
        tools=tools or (),
        tool_choice=asked.tool_choice,
        assistant_id=saved.assistant.id,
        assistant_version=version.version,
        org_id=asked.org_id,
        replaces=replaces,
    )
    busy = _active(thread)
    if busy is not None and busy.state != "paused":
        raise _has_active_run(thread, busy)
    try:
        turn = ask(
            thread,
            wanted,
            messages=asked.messages,
            key=key,
            owner=owner,
            on_busy="reject" if busy is None else "interrupt",
        )
    except TurnInProgress:
        busy = _active(thread)
        raise _has_active_run(thread, busy) from None
    params = {**version.model_params, **asked.params}
    own = asked.instructions if asked.instructions is not None else render_instructions(version)
    facts = {
        "model": asked.model or thread.model or version.model,
        "instructions": "\n\n".join(text for text in (own, asked.additional_instructions) if text),
        "tools": tools_shown(version.tools if asked.tools is None else asked.tools),
        "metadata": checked_metadata(asked.metadata),
        "tool_choice": asked.tool_choice,
        **{name: params[name] for name in _SHOWN if name in params},
    }
    turn.request = {**turn.request, "run": facts}
    db.session.flush()
    return turn


_SHOWN = (
    *("temperature", "top_p", "max_completion_tokens", "response_format", "parallel_tool_calls"),
    "reasoning_effort",
)


def _active(thread: Thread) -> Turn | None:
    head = tree.message_of(thread, thread.head_id) if thread.head_id else None
    return active_turn(head.branch_id) if head else None


def _has_active_run(thread: Thread, turn: Turn | None) -> BadCall:
    which = f" {run_object(turn)['id']}" if turn else ""
    return BadCall(f"Thread {thread.id} already has an active run{which}.")


def run_turn(thread: Thread, run: str, *, lock: bool = False) -> Turn:
    """The turn of a run of the thread. Raises NotFound."""
    query = select(Turn).where(Turn.id == turn_id(run), Turn.subject_id == thread.id, Turn.kind == KIND)
    if lock:
        query = query.with_for_update()
    found = None if "\x00" in run else db.session.scalars(query).one_or_none()
    if found is None:
        raise NotFound(f"No run found with id '{run[:80]}'.")
    return found


def run_json(turn: Turn) -> Json:
    """The run as it is now."""
    return run_object(
        turn, [each for each in written_by([turn]).get(turn.id, ()) if each["role"] == "assistant"]
    )


def runs_list(thread: Thread, page: CursorPage) -> Listed:
    """A page of the thread's runs. Raises NotFound."""
    query = select(Turn).where(Turn.subject_id == thread.id, Turn.kind == KIND)
    rows, more = _keyset(query, Turn, page, lambda id: run_turn(thread, id))
    turns = [row[0] for row in rows]
    written = written_by(turns)
    return Listed(
        [
            run_object(turn, [each for each in written.get(turn.id, ()) if each["role"] == "assistant"])
            for turn in turns
        ],
        more,
    )


def steps_list(turn: Turn, page: CursorPage) -> Listed:
    """A page of the run's steps. Raises NotFound."""
    steps = step_objects(turn, written_by([turn]).get(turn.id, ()))
    if page.newest_first:
        steps.reverse()
    ids = [step["id"] for step in steps]
    for cursor in filter(None, (page.after, page.before)):
        if cursor not in ids:
            raise NotFound(f"No run step found with id '{cursor[:80]}'.")
    if page.after is not None:
        steps = steps[ids.index(page.after) + 1 :]
    elif page.before is not None:
        steps = steps[: ids.index(page.before)]
        return Listed(steps[-page.limit :], len(steps) > page.limit)
    return Listed(steps[: page.limit], len(steps) > page.limit)


def step_json(turn: Turn, id: str) -> Json:
    """A step of a run. Raises NotFound."""
    for step in step_objects(turn, written_by([turn]).get(turn.id, ())):
        if step["id"] == id:
            return step
    raise NotFound(f"No run step found with id '{id[:80]}'.")


def written_by(turns: Sequence[Turn]) -> dict[str, list[Json]]:
    """The messages that turns wrote, in their order, by turn."""
    query = (
        select(ThreadMessage)
        .where(ThreadMessage.turn_id.in_([turn.id for turn in turns]))
        .where(ThreadMessage.role.in_(("assistant", "tool")), ThreadMessage.removed_at.is_(None))
        .order_by(ThreadMessage.seq)
    )
    found: dict[str, list[Json]] = {}
    for message in db.session.scalars(query):
        assert message.turn_id is not None
        found.setdefault(message.turn_id, []).append(tree.message_json(message))
    return found


def change_run_metadata(turn: Turn, metadata: Mapping[str, Any]) -> None:
    """Replace the metadata of a run, whose row is locked. Flushes. Raises Invalid."""
    facts = turn.request.get("run") or {}
    turn.request = {**turn.request, "run": {**facts, "metadata": checked_metadata(metadata)}}
    db.session.flush()
