"""A corpus of turns in normal form: requests by what they contain, and answers as events."""

from typing import Any

from models.gateway.conversation import (
    AnswerEvent,
    AnswerStop,
    AudioPart,
    Conversation,
    ConversationMessage,
    FilePart,
    ImagePart,
    OutputFormat,
    Part,
    ReasoningDelta,
    ReasoningPart,
    ReasoningProof,
    ReasoningRequest,
    TextDelta,
    TextPart,
    ToolCallDelta,
    ToolCallPart,
    ToolChoice,
    ToolDefinition,
    ToolResultPart,
)
from models.gateway.conversation.parts import Role

PNG = "data:image/png;base64,iVBORw0KGgo="
PDF = "data:application/pdf;base64,JVBERi0x"
MARK = {"type": "ephemeral"}
OBJECT = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
LS = ToolDefinition("ls", "List files", OBJECT)
CAT = ToolDefinition("cat", "Read a file", OBJECT)
PATCH = ToolDefinition(
    "apply_patch", "Edit files", custom=True, grammar={"type": "grammar", "definition": "start: X"}
)


def say(role: Role, *parts: Part | str) -> ConversationMessage:
    """A message; strings are texts."""
    return ConversationMessage(
        role, tuple(TextPart(part) if isinstance(part, str) else part for part in parts)
    )


def turn(*messages: ConversationMessage, **more: Any) -> Conversation:
    """A request; without messages, an ordinary one."""
    return Conversation(list(messages) or [say("user", "Say hello.")], **more)


CALL = ToolCallPart("call_1", "ls", '{"path":"."}')
OTHER_CALL = ToolCallPart("call_2", "cat", '{"path":"a.txt"}')
RESULT = ToolResultPart("call_1", (TextPart("a.txt"),))
OTHER_RESULT = ToolResultPart("call_2", (TextPart("Hello"),))
CLAUDES = ReasoningPart("Let me look.", "c2ln", origin="messages")
HIDDEN = ReasoningPart(encrypted="cmVk", origin="messages")
GPTS = ReasoningPart("Looking.", encrypted="ZW5j", origin="responses", id="rs_1")
GEMINIS = ReasoningPart("Thinking.", "Z2Vt", origin="gemini")
OPEN = ReasoningPart("Hm.", origin="chat")

REQUESTS: dict[str, Conversation] = {
    "one text": turn(),
    "several texts": turn(say("user", "One.", "Two.")),
    "a long conversation": turn(
        *(say("user" if at % 2 == 0 else "assistant", f"Turn {at}.") for at in range(9))
    ),
    "two users' messages": turn(say("user", "One."), say("user", "Two.")),
    "a system message": turn(say("system", "Be brief."), say("user", "Hi.")),
    "several system messages": turn(
        say("system", "Be brief."), say("system", "Be kind."), say("user", "Hi.")
    ),
    "a developer's message": turn(say("developer", "Be brief."), say("user", "Hi.")),
    "unicode": turn(say("user", "Grüße, 你好 👋 \u2028 end")),
    "white space": turn(say("user", "  indented\n\n\ttext  ")),
    "an image": turn(say("user", "What is this?", ImagePart(PNG))),
    "an image by address": turn(say("user", ImagePart("https://example.org/a.png"))),
    "an image alone": turn(say("user", ImagePart(PNG))),
    "a document": turn(say("user", "Sum it up.", FilePart(PDF, "a.pdf"))),
    "audio": turn(say("user", "Write it down.", AudioPart("UklGRg==", "wav"))),
    "a tool": turn(tools=[LS]),
    "two tools": turn(tools=[LS, CAT]),
    "a tool without parameters": turn(
        tools=[ToolDefinition("now", "The time", {"type": "object", "properties": {}})]
    ),
    "a custom tool": turn(tools=[PATCH]),
    "any tool": turn(tools=[LS], tool_choice=ToolChoice("required")),
    "one tool by name": turn(tools=[LS, CAT], tool_choice=ToolChoice("tool", "cat")),
    "no tool": turn(tools=[LS], tool_choice=ToolChoice("none")),
    "one call at a time": turn(tools=[LS], tool_choice=ToolChoice("auto"), parallel_tools=False),
    "a call and its result": turn(
        say("user", "Look."), say("assistant", CALL), say("user", RESULT), tools=[LS]
    ),
    "text before a call": turn(
        say("user", "Look."), say("assistant", "I look.", CALL), say("user", RESULT), tools=[LS]
    ),
    "parallel calls": turn(
        say("user", "Look."),
        say("assistant", CALL, OTHER_CALL),
        say("user", RESULT, OTHER_RESULT),
        tools=[LS, CAT],
    ),
    "results, then words": turn(
        say("user", "Look."), say("assistant", CALL), say("user", RESULT, "And?"), tools=[LS]
    ),
    "a failed tool": turn(
        say("user", "Look."),
        say("assistant", CALL),
        say("user", ToolResultPart("call_1", (TextPart("no such file"),), is_error=True)),
        tools=[LS],
    ),
    "an empty result": turn(
        say("user", "Look."), say("assistant", CALL), say("user", ToolResultPart("call_1", ())), tools=[LS]
    ),
    "an image from a tool": turn(
        say("user", "Look."),
        say("assistant", CALL),
        say("user", ToolResultPart("call_1", (TextPart("shot"), ImagePart(PNG)))),
        tools=[LS],
    ),
    "a call without arguments": turn(
        say("user", "Look."),
        say("assistant", ToolCallPart("call_1", "ls", "{}")),
        say("user", RESULT),
        tools=[LS],
    ),
    "a custom call": turn(
        say("user", "Edit."),
        say("assistant", ToolCallPart("call_1", "apply_patch", "*** a\n", custom=True)),
        say("user", ToolResultPart("call_1", (TextPart("done"),), custom=True)),
        tools=[PATCH],
    ),
    "a thought signature on a call": turn(
        say("user", "Look."),
        say("assistant", ToolCallPart("call_1", "ls", "{}", signature="Z2Vt")),
        say("user", RESULT),
        tools=[LS],
    ),
    "reasoning of Claude": turn(say("user", "Look."), say("assistant", CLAUDES, "Done."), say("user", "On.")),
    "hidden reasoning of Claude": turn(
        say("user", "Look."), say("assistant", HIDDEN, "Done."), say("user", "On.")
    ),
    "reasoning of GPT": turn(say("user", "Look."), say("assistant", GPTS, "Done."), say("user", "On.")),
    "reasoning of Gemini": turn(say("user", "Look."), say("assistant", GEMINIS, "Done."), say("user", "On.")),
    "open reasoning": turn(say("user", "Look."), say("assistant", OPEN, "Done."), say("user", "On.")),
    "reasoning before a call": turn(
        say("user", "Look."), say("assistant", CLAUDES, CALL), say("user", RESULT), tools=[LS]
    ),
    "cache marks": turn(say("system", TextPart("Be brief.", MARK)), say("user", TextPart("Hi.", MARK))),
    "a cache mark on a tool": turn(tools=[ToolDefinition("ls", "List", OBJECT, cache=MARK)]),
    "limits": turn(max_output=50, temperature=0.5, top_p=0.9, stop=["END"]),
    "top k and a seed": turn(top_k=5, seed=7),
    "effort": turn(reasoning=ReasoningRequest("high")),
    "a reasoning budget": turn(reasoning=ReasoningRequest(budget=2048)),
    "no reasoning": turn(reasoning=ReasoningRequest(enabled=False)),
    "any JSON": turn(output=OutputFormat()),
    "JSON of a schema": turn(output=OutputFormat(OBJECT, "files", strict=True)),
    "the user": turn(user="user-1"),
}

ANSWERS: dict[str, list[AnswerEvent]] = {
    "text": [TextDelta("Hel"), TextDelta("lo"), AnswerStop("stop")],
    "nothing": [AnswerStop("stop")],
    "cut by the limit": [TextDelta("Hello, I"), AnswerStop("length")],
    "a refusal": [TextDelta("No."), AnswerStop("refusal")],
    "a stop sequence": [TextDelta("Hello"), AnswerStop("stop_sequence", "END")],
    "a call": [
        ToolCallDelta(0, "call_1", "ls", '{"path":'),
        ToolCallDelta(0, arguments='"."}'),
        AnswerStop("tool_calls"),
    ],
    "text, then a call": [
        TextDelta("I look."),
        ToolCallDelta(0, "call_1", "ls", "{}"),
        AnswerStop("tool_calls"),
    ],
    "parallel calls": [
        ToolCallDelta(0, "call_1", "ls", "{}"),
        ToolCallDelta(1, "call_2", "cat", "{}"),
        AnswerStop("tool_calls"),
    ],
    "interleaved calls": [
        ToolCallDelta(0, "call_1", "ls"),
        ToolCallDelta(1, "call_2", "cat"),
        ToolCallDelta(0, arguments='{"path":"."}'),
        ToolCallDelta(1, arguments="{}"),
        AnswerStop("tool_calls"),
    ],
    "open reasoning": [ReasoningDelta("Hm, "), ReasoningDelta("yes."), TextDelta("Yes."), AnswerStop("stop")],
    "reasoning of Claude": [
        ReasoningDelta("Hm."),
        ReasoningProof("c2ln", origin="messages"),
        TextDelta("Yes."),
        AnswerStop("stop"),
    ],
    "hidden reasoning": [
        ReasoningProof(encrypted="ZW5j", origin="responses", id="rs_1"),
        TextDelta("Yes."),
        AnswerStop("stop"),
    ],
    "reasoning before a call": [
        ReasoningDelta("Hm."),
        ReasoningProof("c2ln", origin="messages"),
        ToolCallDelta(0, "call_1", "ls", "{}"),
        AnswerStop("tool_calls"),
    ],
    "a signed call": [ToolCallDelta(0, "call_1", "ls", "{}", signature="Z2Vt"), AnswerStop("tool_calls")],
}
