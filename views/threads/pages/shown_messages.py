"""Messages as pages show them: text as HTML, tools with their results, sources, siblings, and what each answer cost."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from flask import url_for

from models.gateway import GatewayCall
from models.store.catalogue.markdown_blocks import MarkdownBlock, blocks_of_page, with_links
from models.threads import Thread, ThreadMessage, siblings
from models.threads.thread_reading import calls_of
from models.threads.tree import Siblings

MAX_TOOL_TEXT = 20_000
ALONE = Siblings(1, 1, None, None)


@dataclass(frozen=True)
class ShownTool:
    """A tool call, and its result if there is one."""

    name: str
    arguments: str
    result: str | None = None


@dataclass(frozen=True)
class ShownSource:
    """A source of an answer: its number in the text, what it is, the words quoted, and where they are."""

    number: int
    name: str
    quote: str
    place: str
    href: str | None


@dataclass(frozen=True)
class ShownMessage:
    """A message of a page. `writing`: it is not whole yet, and `tail` are its blocks that may still change."""

    id: str
    role: str
    blocks: Sequence[MarkdownBlock] = ()
    tail: Sequence[MarkdownBlock] = ()
    text: str = ""
    thinking: str = ""
    state: str = "completed"
    model: str | None = None
    tools: Sequence[ShownTool] = ()
    files: Sequence[tuple[str, str | None]] = ()
    pictures: Sequence[str] = ()
    sources: Sequence[ShownSource] = ()
    siblings: Siblings = ALONE
    call: GatewayCall | None = None
    finish_reason: str | None = None
    writing: bool = False
    parent_id: str | None = None
    created_at: Any = None
    links: Mapping[int, str] = field(default_factory=dict)

    @property
    def is_step(self) -> bool:
        """Whether it only calls tools: the answer follows."""
        return bool(self.tools) and not self.blocks and self.role == "assistant"

    def html(self, block: MarkdownBlock) -> str:
        """A block with links to its sources."""
        return with_links(block.html, self.links)


def shown_messages(thread: Thread, messages: Sequence[ThreadMessage]) -> list[ShownMessage]:
    """Messages of a branch, oldest first, with results of tools in the messages that called them."""
    calls, places = calls_of(messages), siblings(thread, messages)
    results: dict[str | None, str] = {
        each.tool_call_id: each.text for each in messages if each.role == "tool" and each.tool_call_id
    }
    asked = {call.get("id") for each in messages for call in each.tool_calls or ()}
    answers = [(each, sources_of(each.citations)) for each in messages if each.role == "assistant"]
    marked = [(each.text, {id: source.number for id, source in found.items()}) for each, found in answers]
    parsed = dict(zip([each.id for each, _ in answers], blocks_of_page(marked), strict=True))
    return [
        _shown(each, parsed.get(each.id, ()), results, places.get(each.id, ALONE), calls.get(each.id))
        for each in messages
        if each.role in ("user", "assistant") or (each.role == "tool" and each.tool_call_id not in asked)
    ]


def _shown(
    message: ThreadMessage,
    blocks: Sequence[MarkdownBlock],
    results: Mapping[str | None, str],
    place: Siblings,
    call: GatewayCall | None,
) -> ShownMessage:
    sources = sources_of(message.citations)
    return ShownMessage(
        id=message.id,
        role=message.role,
        blocks=blocks,
        text=message.text,
        thinking="\n".join(part["text"] for part in message.content if part["type"] == "reasoning"),
        state=message.state,
        model=message.model,
        tools=[shown_tool(each, results) for each in message.tool_calls or ()],
        files=[
            (part["name"] or "File", url_for("documents.document", id=part["document_id"]))
            for part in message.content
            if part["type"] == "file"
        ],
        pictures=[part["image_url"]["url"] for part in message.content if part["type"] == "image_url"],
        sources=list(sources.values()),
        siblings=place,
        call=call,
        finish_reason=message.finish_reason,
        parent_id=message.parent_id,
        created_at=message.created_at,
        links={each.number: each.href for each in sources.values() if each.href},
    )


def shown_tool(call: Mapping[str, Any], results: Mapping[str | None, str]) -> ShownTool:
    """A tool call as JSON, indented if it can be read."""
    function = call.get("function") or {}
    arguments = str(function.get("arguments") or "")
    if len(arguments) <= MAX_TOOL_TEXT:
        with suppress(ValueError, RecursionError):
            arguments = json.dumps(json.loads(arguments), indent=2, ensure_ascii=False)
    result = results.get(call.get("id"))
    return ShownTool(
        str(function.get("name") or "a tool"),
        arguments[:MAX_TOOL_TEXT],
        result[:MAX_TOOL_TEXT] if result is not None else None,
    )


def sources_of(citations: Sequence[Any] | None) -> dict[str, ShownSource]:
    """The sources of an answer that were found there, by what its text names them."""
    found: dict[str, ShownSource] = {}
    for cited in citations or ():
        if not isinstance(cited, Mapping) or not cited.get("valid"):
            continue
        number = int(cited["number"])
        quote = str(cited.get("quote") or "")
        href = None
        if document_id := cited.get("document_id"):
            chunk = str(cited["chunk_id"]).rpartition("#")[2]
            href = url_for(
                "documents.document", id=document_id, chunk=chunk, quote=quote or None, _anchor="cited"
            )
        found[str(number)] = ShownSource(
            number, str(cited.get("name") or "Document"), quote, _place(cited), href
        )
    return found


def _place(cited: Mapping[str, Any]) -> str:
    if not (unit := cited.get("unit")):
        return ""
    first, last = cited.get("first"), cited.get("last")
    return f"{unit.capitalize()}s {first}–{last}" if first != last else f"{unit.capitalize()} {first}"
