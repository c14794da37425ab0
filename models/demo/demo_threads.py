"""Assistants and threads of the demo user: three assistants, one with a document, and threads with branches and a citation."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from models import index, threads
from models.assistants import create_assistant
from models.core.settings import Settings
from models.demo.demo_people import USER_ID
from models.index import IndexScope
from models.index.document_parsing import parse_document
from models.ledger import Account
from models.threads import Thread, ThreadMessage
from models.threads.answer_citations import check_answer

ACCOUNT = Account(user_id=USER_ID)
MODEL = "stoa/demo"
HANDBOOK = Path(__file__).parent / "definitions" / "handbook.pdf"
QUOTE = "A release that cannot be taken back within ten minutes needs the consent of two maintainers."
ASSISTANTS: tuple[dict[str, Any], ...] = (
    {
        "name": "Handbook",
        "description": "Answers from the harbour handbook, with the page",
        "instructions": "Answer from the harbour handbook only, in two sentences. Say so if it does not tell.",
    },
    {
        "name": "Release notes",
        "description": "Turns a list of changes into notes for users",
        "instructions": "Write release notes for {{product}} in a {{tone}} tone: what changed for users, what they have to do, whom to ask.",
        "variables": {
            "product": {"type": "string", "default": "Stoa", "description": "What is released"},
            "tone": {"type": "enum", "values": ["plain", "cheerful"], "default": "plain"},
        },
    },
    {
        "name": "Reviewer",
        "description": "Looks at a change as somebody who did not write it",
        "instructions": "Review the change. First whether it does what it says, then what happens when it fails, then whether the next reader can follow it.",
    },
)


def fill(settings: Settings, commit: Callable[[], None]) -> None:
    """Create them, answered by the demo model's name without a call, so without a charge. Calls `commit`: a document is parsed outside of
    transactions. Raises FilesUnavailable."""
    handbook, notes, _ = (
        create_assistant(USER_ID, ACCOUNT, {"model": MODEL, **fields}, settings).assistant.id
        for fields in ASSISTANTS
    )
    document = index.add_document(
        ACCOUNT.id, USER_ID, "assistant", handbook, "Harbour handbook.pdf", HANDBOOK.read_bytes()
    )
    commit()

    @contextmanager
    def transaction() -> Iterator[None]:
        yield
        commit()

    parse_document(transaction, document.id)
    _releases(handbook)
    _changes(notes)
    _plain()
    commit()


def _releases(assistant_id: str) -> None:
    """Who may release: an answer with a citation, and the question asked in other words beside it."""
    thread = _thread("Who agrees to a release?", assistant_id)
    question = _say(thread, "Who has to agree to a release?")
    scope = IndexScope(ACCOUNT.id, "assistant", assistant_id)
    found = index.search([scope], QUOTE, top_k=1).hits
    mark = f"【{found[0].chunk_id} “{QUOTE}”】" if found else ""
    checked = check_answer(
        f"One person who did not write the change reads it. If the release cannot be taken back within ten minutes, two maintainers agree to it.{mark}",
        [scope],
    )
    _answer(thread, question, checked.text, citations=checked.citations)
    other = _say(thread, "On which days do we release, and when not?", beside=question)
    _answer(
        thread,
        other,
        "On Tuesdays and Thursdays between ten and noon; never on the day before a public holiday.",
    )
    threads.select_branch(thread, question.id)


def _changes(assistant_id: str) -> None:
    thread = _thread("Notes for this week", assistant_id)
    question = _say(
        thread, "Threads have branches now. Budgets can be raised for one week. The export is twice as fast."
    )
    _answer(
        thread,
        question,
        "## This week\n\n- **Threads branch.** Edit a question, and both answers stay.\n- **Budgets** can be raised for a week at a time.\n- The **export** is twice as fast.\n\nThere is nothing to do. Ask in *#releases*.",
    )
    second = _answer(
        thread,
        question,
        "## New\n\nThreads have branches, budgets can be raised for a week, and exports take half as long.",
    )
    _answer(
        thread,
        _say(thread, "Shorter, please.", below=second),
        "Branches in threads, raises for a week, faster exports.",
    )


def _plain() -> None:
    thread = _thread("What is a stoa?")
    question = _say(thread, "What is a stoa?")
    _answer(
        thread,
        question,
        "A covered walk with columns along one side, open to everybody. In Athens people traded, judged and taught there.\n\n```text\n| | | | | | | |\n```",
    )


def _thread(name: str, assistant_id: str | None = None) -> Thread:
    return threads.create_thread(USER_ID, ACCOUNT, name=name, model=MODEL, assistant_id=assistant_id)


def _say(
    thread: Thread, text: str, *, beside: ThreadMessage | None = None, below: ThreadMessage | None = None
) -> ThreadMessage:
    if beside is not None:
        return threads.append(thread, role="user", content=text, parent_id=beside.parent_id)
    return threads.append(thread, role="user", content=text, parent_id=below.id if below else thread.head_id)


def _answer(
    thread: Thread, question: ThreadMessage, text: str, *, citations: list[Any] | None = None
) -> ThreadMessage:
    return threads.append(
        thread,
        role="assistant",
        content=text,
        parent_id=question.id,
        model=MODEL,
        finish_reason="stop",
        credits=0,
        citations=citations or None,
    )
