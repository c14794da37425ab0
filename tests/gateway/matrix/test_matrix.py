"""Every turn of the corpus in every format, and from each format to each other: what arrives, compared in normal form.

What does not arrive must be explained in `LOST`; the table of docs/gateway.md is made from what is found here.
"""

import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from models.gateway import sse
from models.gateway.conversation import (
    AnswerBuilder,
    AudioPart,
    Conversation,
    FilePart,
    ImagePart,
    Part,
    ReasoningPart,
    TextPart,
    ToolCallPart,
    ToolDefinition,
    ToolResultPart,
)
from models.gateway.formats.chat_answer import ChatAnswerReader, chat_message, finish_reason
from models.gateway.formats.chat_request import read_chat, write_chat
from models.gateway.formats.foreign_reasoning import restore
from models.gateway.formats.gemini_answer import GeminiAnswerReader, GeminiWriter, gemini_body
from models.gateway.formats.gemini_request import read_gemini, write_gemini
from models.gateway.formats.messages_answer import MessagesAnswerReader, MessagesWriter, message_body
from models.gateway.formats.messages_request import read_messages, write_messages
from models.gateway.formats.responses_answer import (
    ResponseHead,
    ResponsesAnswerReader,
    ResponsesWriter,
    response_body,
)
from models.gateway.formats.responses_request import read_responses, write_responses
from tests.gateway.matrix.corpus import ANSWERS, REQUESTS

DOCS = Path(__file__).parents[3] / "docs" / "gateway.md"
Fact = tuple[Any, ...]
FORMATS: dict[str, tuple[Callable[[Any], Conversation], Callable[[Conversation], dict[str, Any]]]] = {
    "chat": (read_chat, write_chat),
    "messages": (read_messages, write_messages),
    "responses": (read_responses, write_responses),
    "gemini": (read_gemini, write_gemini),
}

LOST: dict[str, dict[str, str]] = {
    "chat": {
        "custom": "custom tools become functions with one parameter",
        "error": "the text says that the tool failed",
        "image of a tool": "a tool's image follows as the user's",
    },
    "messages": {
        "developer": "developers' messages are the system's",
        "audio": "Claude takes no audio",
        "custom": "custom tools become functions with one parameter",
        "signature": "thought signatures are Gemini's",
        "reasoning": "reasoning of another vendor proves nothing to Claude",
        "sampling": "there is no seed, and with reasoning no temperature",
        "effort": "an effort becomes a budget",
        "strict": "schemas are always strict, and have no name",
        "any JSON": "JSON needs a schema",
    },
    "responses": {
        "cache": "OpenAI caches by itself",
        "error": "the text says that the tool failed",
        "reasoning": "reasoning of another vendor proves nothing to OpenAI",
        "sampling": "there are no stop sequences, no seed and no top_k",
        "signature": "thought signatures are Gemini's",
        "effort": "a budget becomes an effort",
    },
    "gemini": {
        "cache": "Google's marks are objects of their own",
        "custom": "custom tools become functions with one parameter",
        "developer": "developers' messages are the system's",
        "error": "a result is an object that holds the error",
        "file name": "documents have no names",
        "image of a tool": "a tool's image follows as the user's",
        "parallel": "calls are always parallel",
        "reasoning": "reasoning of another vendor proves nothing to Gemini",
        "effort": "an effort becomes a budget",
        "strict": "schemas are always strict, and have no name",
        "user": "there is no field for the user",
    },
}
"""What a format cannot say, and what happens instead."""


# -- requests ------------------------------------------------------------------------------------------------


def facts_of(conversation: Conversation) -> set[Fact]:
    """What a request says, as facts that start with their kind. The order of messages is a fact of each part."""
    found: set[Fact] = set()
    turns: list[tuple[str, list[Part]]] = []
    for message in conversation.messages:
        role = message.role
        if role == "developer":
            found.add(("developer", str(message.parts)))
            role = "system"
        if turns and turns[-1][0] == role:
            turns[-1][1].extend(message.parts)
        else:
            turns.append((role, [*message.parts]))
    for role, parts in turns:
        texts = "".join(part.text for part in parts if isinstance(part, TextPart))
        if texts:
            # a line between the texts of the system may be added
            found.add(("text", role, "".join(texts.split()) if role == "system" else texts))
        for part in parts:
            found |= set(_part_facts(role, part))
    for tool in conversation.tools:
        assert isinstance(tool, ToolDefinition)
        if tool.custom:
            found.add(("custom", tool.name, tool.description))
        else:
            found.add(("tool", tool.name, tool.description, json.dumps(tool.schema, sort_keys=True)))
        if tool.cache:
            found.add(("cache", tool.name))
    found |= set(_setting_facts(conversation))
    return found


def _part_facts(role: str, part: Part) -> Iterator[Fact]:
    match part:
        case ImagePart():
            yield ("image", role, part.url)
        case FilePart():
            yield ("file", role, part.url)
            yield ("file name", part.name)
        case AudioPart():
            yield ("audio", role, part.data, part.format)
        case ReasoningPart():
            yield ("reasoning", part.origin, part.text, part.signature, part.encrypted, part.id)
        case ToolCallPart(custom=True):
            yield ("custom", "call", part.id, part.name, part.arguments)
        case ToolCallPart():
            yield ("call", part.id, part.name, json.dumps(json.loads(part.arguments)))
            if part.signature:
                yield ("signature", part.signature)
        case ToolResultPart():
            text = "".join(each.text for each in part.parts if isinstance(each, TextPart))
            yield ("error" if part.is_error else "result", part.id, text)
            for each in part.parts:
                if not isinstance(each, TextPart):
                    yield ("image of a tool", getattr(each, "url", ""))
    if getattr(part, "cache", None):
        yield ("cache", role)


def _setting_facts(conversation: Conversation) -> Iterator[Fact]:
    if conversation.tool_choice:
        yield ("choice", conversation.tool_choice.mode, conversation.tool_choice.name)
    if conversation.parallel_tools is not None:
        yield ("parallel", conversation.parallel_tools)
    if conversation.max_output is not None:
        yield ("limit", conversation.max_output)
    for name in ("temperature", "top_p", "top_k", "seed"):
        if getattr(conversation, name) is not None:
            yield ("sampling", name, getattr(conversation, name))
    if conversation.stop:
        yield ("sampling", "stop", *conversation.stop)
    if (reasoning := conversation.reasoning) is not None:
        kind = "effort" if reasoning.enabled else "no reasoning"
        yield (kind, reasoning.effort, reasoning.budget)
    if (output := conversation.output) is not None and output.schema is None:
        yield ("any JSON",)
    elif output is not None:
        yield ("schema", json.dumps(output.schema, sort_keys=True))
        yield ("strict", output.name, output.strict)
    if conversation.user:
        yield ("user", conversation.user)


def through(conversation: Conversation, *names: str) -> Conversation:
    """The request, written and read in one format after the other."""
    for name in names:
        reader, writer = FORMATS[name]
        sent = deepcopy(conversation)
        body = json.loads(json.dumps(writer(sent)))
        conversation = reader({"model": "m", **body})
    return conversation


def lost(conversation: Conversation, *names: str) -> set[str]:
    """The kinds of facts that did not arrive, or arrived otherwise."""
    return {str(fact[0]) for fact in facts_of(conversation) - facts_of(through(conversation, *names))}


PAIRS = [(first, second) for first in FORMATS for second in FORMATS]


@pytest.mark.parametrize(("first", "second"), PAIRS, ids=[f"{first}-{second}" for first, second in PAIRS])
def test_requests_arrive(first: str, second: str) -> None:
    """From the format of a client to that of a provider: nothing is lost but what one of the two cannot say."""
    explained = LOST[first].keys() | LOST[second].keys()
    unexplained = {
        name: rest for name, each in REQUESTS.items() if (rest := lost(each, first, second) - explained)
    }
    assert unexplained == {}


def test_everything_explained_happens() -> None:
    found = {name: {kind for each in REQUESTS.values() for kind in lost(each, name)} for name in FORMATS}
    assert {name: LOST[name].keys() - found[name] for name in FORMATS} == {name: set() for name in FORMATS}


# -- answers -------------------------------------------------------------------------------------------------

Reader = Callable[[], Any]
READERS: dict[str, Reader] = {
    "chat": ChatAnswerReader,
    "messages": MessagesAnswerReader,
    "responses": ResponsesAnswerReader,
    "gemini": GeminiAnswerReader,
}


def built(events: Any) -> Any:
    builder = AnswerBuilder()
    for event in events:
        builder.add(event)
    return builder.answer()


def whole(name: str, answer: Any) -> dict[str, Any]:
    """The answer as a body of the format."""
    if name == "chat":
        return {"choices": [{"message": chat_message(answer), "finish_reason": finish_reason(answer.stop)}]}
    if name == "messages":
        return message_body("msg_1", "m", answer, None)
    if name == "responses":
        return response_body(ResponseHead("resp_1", "m", {}), answer, None)
    return gemini_body("r", "m", answer, None)


def streamed(name: str, events: Any) -> bytes:
    """The events as a stream of the format."""
    if name == "messages":
        writer = MessagesWriter("msg_1")
        return writer.start("m") + b"".join(map(writer.write, events)) + writer.finish(None)
    if name == "responses":
        items = ResponsesWriter(ResponseHead("resp_1", "m", {}))
        return items.start("m") + b"".join(map(items.write, events)) + items.finish(None)
    chunks = GeminiWriter("r")
    return b"".join(chunks.write(event, "m") for event in events) + chunks.finish("m", None)


def answer_facts(answer: Any) -> list[Fact]:
    """What an answer says. Reasoning signed for the client is that of its vendor."""
    found: list[Fact] = []
    for part in answer.parts:
        match part:
            case TextPart():
                found.append(("text", part.text))
            case ReasoningPart():
                own = restore(part.text, part.signature) or restore(part.text, part.encrypted) or part
                origin = "" if own.origin == "chat" else own.origin
                found.append(("reasoning", own.text, origin, own.signature, own.encrypted))
            case ToolCallPart():
                found.append(("call", part.id, part.name, json.loads(part.arguments or "{}"), part.signature))
    return found


ANSWER_LOSSES = {
    ("messages", "a signed call"): "thought signatures are Gemini's",
    ("responses", "a signed call"): "thought signatures are Gemini's",
}


@pytest.mark.parametrize("case", ANSWERS)
@pytest.mark.parametrize("name", FORMATS)
def test_answers_arrive(name: str, case: str) -> None:
    """A whole answer and a stream say what the provider's answer said."""
    expected = built(ANSWERS[case])
    found = [built(READERS[name]().read_whole(whole(name, expected)))]
    if name != "chat":
        reader = READERS[name]()
        bodies = [
            json.loads(event.data)
            for event in sse.SseParser().feed(streamed(name, ANSWERS[case]))
            if event.data
        ]
        found.append(built(event for body in bodies for event in reader.read(body)))
    for answer in found:
        if (name, case) not in ANSWER_LOSSES:
            assert sorted(map(str, answer_facts(answer))) == sorted(map(str, answer_facts(expected)))
        assert answer.stop is not None


# -- the table -----------------------------------------------------------------------------------------------


def table() -> str:
    """The table of docs/gateway.md: for each client's format the requests that arrive whole, and what the provider's format loses."""
    lines = ["| client \\ provider | " + " | ".join(FORMATS) + " |", "|---|" + "---|" * len(FORMATS)]
    for first in FORMATS:
        cells = []
        for second in FORMATS:
            kinds = [lost(each, first, second) - lost(each, first) for each in REQUESTS.values()]
            complete = sum(not each for each in kinds)
            names = sorted({kind for each in kinds for kind in each})
            cells.append(f"{complete} of {len(kinds)}" + (f": {', '.join(names)}" if names else ""))
        lines.append(f"| {first} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def test_the_documented_table_is_the_one_found() -> None:
    assert table() in DOCS.read_text(), table()
