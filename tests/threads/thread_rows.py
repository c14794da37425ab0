"""Rows for pages of threads: one with two versions of a question, an answer in Markdown with a source, and a link."""

from models import threads
from models.ledger import Account
from models.threads.thread_share import share_thread
from models.turns import Turn, TurnEvent
from tests import factories

ANSWER = (
    """A **stoa** is a covered walk:

1. columns in front,
2. a wall behind.

| order | columns |
| --- | --- |
| Doric | 12 |

```python
columns = [column for column in range(12)]
```

Rain stays outside 【1】. A word that does not wrap: """
    + "x" * 120
)
CITED = {
    "valid": True,
    "number": 1,
    "chunk_id": f"file-{'0' * 32}#0",
    "document_id": f"file-{'0' * 32}",
    "name": "pipes.pdf",
    "unit": "page",
    "first": 1,
    "last": 2,
    "quote": "A long answer with a line of code",
}


def thread_rows(user_id: str, account: Account) -> dict[str, str]:
    """Make them in the current transaction. Ids for the arguments of routes."""
    thread = threads.create_thread(
        user_id, account, name="What is a stoa? And · a | temple", model="stoa/demo"
    )
    threads.append(thread, role="user", content="What is a temple?")
    question = threads.append(thread, role="user", content="What is a stoa?", parent_id=None)
    turn = factories.save(
        Turn(
            kind="thread",
            subject_id=thread.id,
            branch_id=question.branch_id,
            account_id=account.id,
            user_id=user_id,
            key_id="none",
            state="completed",
            request={"parent_id": question.id},
            last_seq=1,
        )
    )
    factories.save(TurnEvent(turn_id=turn.id, seq=1, type="turn.completed", data={"state": "completed"}))
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "file_search", "arguments": '{"query": "stoa"}'},
    }
    asked = threads.append(
        thread, role="assistant", content="", tool_calls=[call], model="stoa/demo", turn_id=turn.id
    )
    threads.append(thread, role="tool", content="Passages", tool_call_id="call_1", turn_id=turn.id)
    threads.append(
        thread,
        role="assistant",
        content=[{"type": "reasoning", "text": "Columns?"}, {"type": "text", "text": ANSWER}],
        model="stoa/demo",
        turn_id=turn.id,
        citations=[CITED],
        credits=3,
    )
    assert asked.seq == 3
    share = share_thread(thread, "week")
    return {
        "thread_id": thread.id,
        "turn_id": turn.id,
        "threads/share_id": share.id,
        "shared/threads/token": share.token,
        "form": "md",
        "document_id": f"file-{'0' * 32}",
    }
