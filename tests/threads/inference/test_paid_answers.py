"""An answer that was paid for is kept, whatever limit it crosses, and the turn says why it ends."""

from typing import Any

import orjson
import pytest
from sqlalchemy import func, select, update

from models.core.db import db
from models.core.errors import Conflict
from models.threads import Thread, thread_turn, tree
from models.threads.conversation_items import kept_items
from models.threads.kept_answer import kept_answer, kept_usage
from models.threads.message_content import MAX_CONTENT_BYTES, MAX_PARTS, MAX_TEXT, check_storable
from models.threads.turn_resuming import submit_outputs
from models.turns import Turn, own_turn
from tests.fakes import upstream as fakes
from tests.fakes.upstream import Behaviour, FakeUpstream
from tests.threads.inference.conftest import USAGE, Turns, calls, says

HUGE = "word " * 250_000


def writes(text: str = "", arguments: str | None = None, usage: Any = USAGE, **head: Any) -> Behaviour:
    """An answer of one chunk."""
    delta: dict[str, Any] = {"role": "assistant", "content": text}
    if arguments is not None:
        function = {"name": "look", "arguments": arguments}
        delta["tool_calls"] = [{"index": 0, "id": "call_1", "type": "function", "function": function}]
    reason = "stop" if arguments is None else "tool_calls"
    events = [fakes.chunk(delta, **head), fakes.chunk({}, reason), fakes.chunk(None, usage=usage), "[DONE]"]
    return fakes.stream(events)


def is_charged(turns: Turns, turn: Turn) -> None:
    """Its one call is charged once, and the message, the turn and the thread say so."""
    call = turns.calls()[-1]
    answer = turns.messages()[-1]
    assert (answer.role, answer.message_id, answer.credits) == ("assistant", call.message_id, call.credits)
    assert call.credits
    assert turn.credits == call.credits
    assert turns.thread.reserved == 0


def fill(turns: Turns, left: int) -> None:
    """Let the thread have room for so many messages."""
    db.session.execute(
        update(Thread).where(Thread.id == turns.thread_id).values(last_seq=tree.MAX_MESSAGES - left)
    )
    db.session.commit()


@pytest.mark.parametrize(
    ("answer", "state", "code", "begins"),
    [
        (writes("Look: " + HUGE), "failed", "answer_too_large", "Look: word"),
        (writes("Look:", f'{{"a": "{HUGE}"}}'), "failed", "answer_too_large", "Look:"),
        (writes("Look: " + HUGE, f'{{"a": "{HUGE}"}}'), "failed", "answer_too_large", "Look: word"),
        (writes("Look.", usage={**USAGE, "more": "x" * 2_000_000}), "completed", None, "Look."),
        (writes("Look.", usage={**USAGE, "deep": [[[[[[{"a": "\x00"}]]]]]]}), "completed", None, "Look."),
        (writes("Look.", model="m" * 5_000), "completed", None, "Look."),
    ],
    ids=["text", "tool calls", "both", "usage", "NUL in usage", "model"],
)
def test_an_answer_beyond_a_limit_is_kept_and_charged(
    turns: Turns, fake: FakeUpstream, answer: Behaviour, state: str, code: str | None, begins: str
) -> None:
    fake.will(answer)
    turn = turns.ask()
    assert (turn.state, turn.error_code) == (state, code), turn.error_message
    kept = turns.messages()[-1]
    assert kept.text.startswith(begins)
    assert (kept.state, kept.finish_reason) == (("incomplete", "length") if code else ("completed", "stop"))
    assert kept.text.endswith("[cut]") == (len(kept.text) > 1_000)
    assert kept.tool_calls is None
    is_charged(turns, turn)


def test_the_answer_to_the_last_message_of_a_full_thread_is_kept(turns: Turns, fake: FakeUpstream) -> None:
    fill(turns, 1)
    turn = turns.ask()
    assert (turn.state, turns.messages()[-1].text) == ("completed", "It is a portico.")
    is_charged(turns, turn)
    for text in ("More", None):
        with pytest.raises(Conflict) as full:
            turns.begin(text)
        assert full.value.code == "thread_full"
        db.session.rollback()
    assert len(fake.requests) == 1


def test_a_full_thread_begins_no_further_round(turns: Turns, fake: FakeUpstream, server_tools: Any) -> None:
    server_tools(look=lambda _: "seen")
    fake.will(calls(("s1", "look"), text="Looking."))
    fill(turns, 1)
    turn = turns.ask()
    assert (turn.state, turn.error_code) == ("failed", "thread_full")
    assert turns.messages()[-1].text == "Looking."
    is_charged(turns, turn)
    assert len(fake.requests) == 1


def test_results_of_a_paid_round_are_kept_in_a_full_thread(turns: Turns, fake: FakeUpstream) -> None:
    tool = {"type": "function", "function": {"name": "ask_user", "parameters": {"type": "object"}}}
    fake.will(calls(("c1", "ask_user")), says("Done."))
    fill(turns, 3)
    turn = turns.ask(tools=[tool])
    assert turn.state == "requires_action"
    fill(turns, 0)
    waiting = own_turn(turn.user_id, turn.account_id, turn.id, lock=True)
    submit_outputs(waiting, [{"tool_call_id": "c1", "output": "yes"}], turns.engine.owner)
    db.session.commit()
    turns.engine.run(turn.id)
    assert turns.after(turn).state == "completed"
    assert turns.messages()[-1].text == "Done."


def test_an_answer_is_kept_also_if_we_fail_afterwards(turns: Turns, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(thread_turn, "kept_answer", broken)
    turn = turns.ask(budget=5_000)
    assert (turn.state, turn.error_code) == ("failed", "internal_error")
    assert turns.messages()[-1].text == "It is a portico."
    is_charged(turns, turn)
    assert db.session.scalar(select(func.sum(Turn.reserved))) == 0


@pytest.mark.parametrize("text", ["", "a", "😀", "\n"])
@pytest.mark.parametrize("arguments", [0, 400_000, 2_000_000])
@pytest.mark.parametrize("cited", [0, 5_000])
def test_whatever_was_written_fits_into_a_message(text: str, arguments: int, cited: int) -> None:
    tool_calls: list[Any] = [{"id": "1", "function": {"name": "look", "arguments": "x" * arguments}}]
    citations = [{"quote": "q" * 200}] * cited
    kept = kept_answer(text * 600_000, "why " * 300_000, tool_calls, lambda text: (text, citations))
    whole = [kept.parts, kept.tool_calls, kept.citations]
    assert check_storable(whole, "message") <= MAX_CONTENT_BYTES
    is_cut = len(orjson.dumps(text * 600_000)) > MAX_TEXT
    assert bool(kept.problem) == (is_cut or kept.tool_calls is None)
    assert kept.tool_calls in (tool_calls, None)


@pytest.mark.parametrize(
    ("usage", "kept"),
    [
        (None, None),
        ({"a": 1}, {"a": 1}),
        ({"a": 1, "b": "x" * 2_000_000}, {"a": 1}),
        ({"a": 1, "b": "\x00"}, {"a": 1}),
        ({str(number): number for number in range(9_000)}, {str(number): number for number in range(20)}),
    ],
)
def test_usage_that_cannot_be_stored_is_reduced_to_counts(usage: Any, kept: Any) -> None:
    assert kept_usage(usage) == kept


def nested(depth: int) -> Any:
    return [nested(depth - 1)] if depth else "x"


@pytest.mark.parametrize(
    ("item", "kind"),
    [
        ({"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": HUGE}]}, "message"),
        ({"type": "message", "role": "assistant", "content": "😀" * 900_000}, "message"),
        ({"type": "message", "role": "king", "content": "x"}, "message"),
        ({"type": "function_call", "call_id": "1", "name": "f", "arguments": HUGE}, "function_call"),
        ({"type": "image_generation_call", "result": HUGE}, "image_generation_call"),
        ({"type": "other", "deep": nested(400)}, "other"),
        ({"type": "reasoning", "summary": [{"type": "summary_text", "text": HUGE}] * 3}, "reasoning"),
        ({"type": "other", "many": [HUGE] * 60}, "other"),
    ],
)  # fmt: skip
def test_whatever_a_response_wrote_fits_into_a_conversation(item: dict[str, Any], kind: str) -> None:
    (kept,) = kept_items([item])
    assert kept["type"] == kind
    assert check_storable(kept, "item") <= MAX_CONTENT_BYTES
    assert kept["status"] == "incomplete"


def test_items_that_fit_stay_as_they_are() -> None:
    part = {"type": "output_text", "text": "x"}
    item = {
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [part] * (MAX_PARTS + 1),
    }
    assert kept_items([item, "no item"]) == [item]
