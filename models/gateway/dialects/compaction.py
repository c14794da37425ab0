"""OpenAI's compaction of a conversation (`/v1/responses/compact`)."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from models.gateway.chat_format import BadCall, Call, Usage, UsageMeter
from models.gateway.conversation import Answer, Conversation, ConversationMessage, TextPart, ToolChoice
from models.gateway.dialects.responses import ResponsesDialect
from models.gateway.formats.foreign_reasoning import seal_summary
from models.gateway.formats.responses_answer import response_usage
from models.gateway.formats.responses_request import COMPACTION
from models.gateway.response_state.response_items import kept_items

MAX_TEXTS = 20_000
"""Characters of earlier answers that stand for a summary."""
REQUEST = (
    "Stop here and do not continue the task. Write a summary that replaces this conversation: whoever continues reads the summary and "
    "the user's messages, and nothing else. State what the user wants, with every constraint and preference they named; what has been "
    "done and decided, and why; what was found out, with exact names, paths, values, commands and errors that matter; what failed; "
    "and what remains to be done, with the next step first. Write plain text, without a preamble."
)


class CompactionDialect(ResponsesDialect):
    """Replaces all of a conversation but the user's messages by one item. OpenAI compacts for its own models; for other vendors the same
    model writes a summary, which is sealed in the item and opened when the item comes back."""

    format = COMPACTION
    keeps = False

    def parse_body(self, body: Any, size: int) -> Call:
        call = super().parse_body(body, size)
        if call.stream:
            raise BadCall("'stream' is not served here: a compaction is answered whole.", param="stream")
        return replace(call, format=self.format)

    def translated(self, body: Mapping[str, Any]) -> Conversation:
        conversation = super().translated(body)
        conversation.messages.append(ConversationMessage("user", (TextPart(REQUEST),)))
        conversation.tool_choice = ToolChoice("none") if conversation.tools else None
        conversation.output = conversation.verbosity = None
        return conversation

    def answer_body(self, call: Call, answer: Answer, meter: UsageMeter, usage: Usage) -> dict[str, Any]:
        text = "\n\n".join(part.text for part in answer.parts if isinstance(part, TextPart)).strip()
        text = text or _last_texts(self.conversation(call.client_body))
        id = meter.id or "answer"
        item = {"id": f"cmp_{id}", "type": COMPACTION, "encrypted_content": seal_summary(text)}
        return {
            "id": f"resp_{id.removeprefix('chatcmpl-')}",
            "object": "response.compaction",
            "created_at": int(time.time()),
            "output": [*_messages_of_user(call.client_body, id), item],
            "usage": response_usage(usage),
        }


def _last_texts(conversation: Conversation) -> str:
    """What stands for a summary that the model did not write, although it was paid for."""
    texts = [
        part.text
        for message in conversation.messages
        if message.role == "assistant"
        for part in message.of(TextPart)
    ]
    return "The last answers were:\n\n" + "\n\n".join(texts)[-MAX_TEXTS:]


def _messages_of_user(body: Mapping[str, Any], id: str) -> Iterator[dict[str, Any]]:
    for item in kept_items(body.get("input"), id):
        if item.get("type") == "message" and item.get("role") == "user":
            yield item
