"""Requests in the format of Anthropic's Messages API."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import orjson

from models.gateway.conversation import (
    Conversation,
    ConversationMessage,
    FilePart,
    ImagePart,
    NativePart,
    NativeTool,
    OutputFormat,
    Part,
    ReasoningPart,
    ReasoningRequest,
    TextPart,
    ToolCallPart,
    ToolChoice,
    ToolDefinition,
    ToolResultPart,
)
from models.gateway.formats.chat_request import FREE_TEXT, described
from models.gateway.formats.foreign_reasoning import restore, sign
from models.gateway.formats.tool_arguments import arguments_of
from models.gateway.lenient_json import write

NAME = "messages"

DEFAULT_MAX_OUTPUT = 32_000
"""`max_tokens` of a request that came without a limit: the API requires one."""
MAX_CACHE_MARKS = 4
"""Cache marks that the API takes in one request."""
EFFORT_BUDGETS = {
    "minimal": 1_024,
    "low": 4_096,
    "medium": 10_240,
    "high": 24_576,
    "xhigh": 32_768,
    "max": 65_536,
}
"""Reasoning tokens of an effort, for models that take a budget only."""

_VOLATILE = "x-anthropic-billing-header:"
"""Start of a line of Claude Code's that changes with each call; left in, it would defeat every prompt cache but Anthropic's."""
_KNOWN = frozenset(
    (
        *("model", "messages", "system", "stream", "tools", "tool_choice", "max_tokens", "temperature"),
        *("top_p", "top_k", "stop_sequences", "thinking", "output_config", "output_format", "metadata"),
        *("service_tier",),
    )
)

# -- reading -------------------------------------------------------------------------------------------------


def read_messages(body: Mapping[str, Any]) -> Conversation:
    """A parsed request (`messages_parsing.parse`) in normal form."""
    choice = body.get("tool_choice")
    choice = choice if isinstance(choice, dict) else {}
    metadata, config = body.get("metadata"), body.get("output_config")
    user = metadata.get("user_id") if isinstance(metadata, dict) else None
    tier = body.get("service_tier")
    conversation = Conversation(
        [],
        NAME,
        tools=[_read_tool(tool) for tool in body.get("tools") or ()],
        tool_choice=_read_choice(choice),
        parallel_tools=False if choice.get("disable_parallel_tool_use") is True else None,
        max_output=body.get("max_tokens"),
        temperature=body.get("temperature"),
        top_p=body.get("top_p"),
        top_k=body.get("top_k"),
        stop=[*(body.get("stop_sequences") or ())],
        reasoning=_read_reasoning(body.get("thinking"), config),
        output=_read_output(body.get("output_format"), config),
        service_tier="default" if tier == "standard_only" else tier,
        user=user if isinstance(user, str) else None,
        stream=bool(body.get("stream")),
        other={key: value for key, value in body.items() if key not in _KNOWN and value is not None},
    )
    system = [
        part
        for part in _read_content(body.get("system"))
        if not (isinstance(part, TextPart) and part.text.startswith(_VOLATILE))
    ]
    if system:
        conversation.messages.append(ConversationMessage("system", tuple(system)))
    for message in body["messages"]:
        role = message["role"]
        conversation.messages.append(ConversationMessage(role, (*_read_content(message.get("content")),)))
    return conversation


def _read_content(content: Any) -> Iterator[Part]:
    if isinstance(content, str):
        if content:
            yield TextPart(content)
        return
    for block in content or ():
        yield _read_block(block)


def _read_block(block: Mapping[str, Any]) -> Part:
    kind, cache = block.get("type"), block.get("cache_control")
    match kind:
        case "text" if isinstance(block.get("text"), str):
            return TextPart(block["text"], cache)
        case "image" if url := _read_source(block.get("source")):
            return ImagePart(url, cache=cache)
        case "document" if isinstance(source := block.get("source"), dict):
            if source.get("type") == "text" and isinstance(source.get("data"), str):
                return TextPart(source["data"], cache)
            if url := _read_source(source):
                return FilePart(url, block.get("title"), cache)
        case "thinking" if isinstance(block.get("thinking"), str):
            restored = restore(block["thinking"], block.get("signature"))
            return restored or ReasoningPart(block["thinking"], block.get("signature"), origin=NAME)
        case "redacted_thinking" if isinstance(block.get("data"), str):
            return restore("", block["data"]) or ReasoningPart(encrypted=block["data"], origin=NAME)
        case "tool_use" if isinstance(block.get("name"), str):
            arguments = block.get("input")
            text = "{}" if arguments is None else write(arguments).decode()
            return ToolCallPart(str(block.get("id") or ""), block["name"], text, cache=cache)
        case "tool_result":
            parts = (*_read_content(block.get("content")),)
            return ToolResultPart(
                str(block.get("tool_use_id") or ""), parts, block.get("is_error") is True, cache=cache
            )
    return NativePart(NAME, str(kind or "block"), block)


def _read_source(source: Any) -> str | None:
    """The URL of an image or document; None for a reference to a file stored at the vendor."""
    if not isinstance(source, dict):
        return None
    if source.get("type") == "base64" and isinstance(source.get("data"), str):
        return f"data:{source.get('media_type') or 'application/octet-stream'};base64,{source['data']}"
    url = source.get("url")
    return url if isinstance(url, str) else None


def _read_tool(tool: Mapping[str, Any]) -> ToolDefinition | NativeTool:
    kind = tool.get("type") or "custom"
    if kind == "custom" and isinstance(tool.get("name"), str):
        return ToolDefinition(
            tool["name"],
            tool.get("description"),
            tool.get("input_schema"),
            tool.get("strict"),
            cache=tool.get("cache_control"),
        )
    return NativeTool(NAME, str(kind), tool)


def _read_choice(choice: Mapping[str, Any]) -> ToolChoice | None:
    match choice.get("type"):
        case "auto" | "none" as mode:
            return ToolChoice(mode)
        case "any":
            return ToolChoice("required")
        case "tool":
            return ToolChoice("tool", str(choice.get("name") or ""))
    return None


def _read_reasoning(thinking: Any, config: Any) -> ReasoningRequest | None:
    effort = config.get("effort") if isinstance(config, dict) else None
    effort = effort if isinstance(effort, str) else None
    kind = thinking.get("type") if isinstance(thinking, dict) else None
    if kind == "disabled":
        return ReasoningRequest(enabled=False)
    budget = thinking.get("budget_tokens") if isinstance(thinking, dict) else None
    if type(budget) is int:
        return ReasoningRequest(effort, budget)
    if kind is None and effort is None:
        return None
    return ReasoningRequest(effort or "medium")


def _read_output(given: Any, config: Any) -> OutputFormat | None:
    given = given if isinstance(given, dict) else config.get("format") if isinstance(config, dict) else None
    if isinstance(given, dict) and given.get("type") == "json_schema":
        return OutputFormat(given.get("schema"), strict=True)
    return None


# -- writing -------------------------------------------------------------------------------------------------


_TIERS = {"auto": "auto", "default": "standard_only"}


def write_messages(conversation: Conversation) -> dict[str, Any]:
    """A request body. What it cannot express is named in `conversation.left_out`."""
    writer = _Writer(conversation)
    body: dict[str, Any] = {
        "messages": writer.messages(),
        "max_tokens": DEFAULT_MAX_OUTPUT
        if conversation.max_output is None
        else max(conversation.max_output, 1),
        "stream": conversation.stream,
    }
    if system := writer.system():
        body["system"] = system
    if conversation.tools and (tools := [*writer.tools()]):
        body["tools"] = tools
        if (choice := _tool_choice(conversation)) is not None:
            body["tool_choice"] = choice
    values = {
        "temperature": None if conversation.temperature is None else min(conversation.temperature, 1),
        "top_p": conversation.top_p,
        "top_k": conversation.top_k,
        "stop_sequences": conversation.stop or None,
        "metadata": {"user_id": conversation.user} if conversation.user else None,
        "service_tier": _TIERS.get(str(conversation.service_tier)),
    }
    body |= {key: value for key, value in values.items() if value is not None}
    _write_reasoning(conversation, body)
    if (output := conversation.output) is not None:
        if output.schema is not None:
            body.setdefault("output_config", {})["format"] = {"type": "json_schema", "schema": output.schema}
        else:
            conversation.leave_out("response_format")
    for name, key in (("seed", "seed"), ("verbosity", "verbosity"), ("cache_key", "prompt_cache_key")):
        if getattr(conversation, name) is not None:
            conversation.leave_out(key)
    if conversation.service_tier and str(conversation.service_tier) not in _TIERS:
        conversation.leave_out("service_tier")
    if conversation.origin == NAME:
        return {**conversation.other, **body}
    for key in conversation.other:
        conversation.leave_out(key)
    return body


def _write_reasoning(conversation: Conversation, body: dict[str, Any]) -> None:
    reasoning = conversation.reasoning
    if reasoning is None:
        return
    if not reasoning.enabled:
        body["thinking"] = {"type": "disabled"}
        return
    budget = reasoning.budget or EFFORT_BUDGETS.get(reasoning.effort or "", 0)
    if budget:
        # the limit includes the reasoning, and temperature and choice of a tool exclude it
        body["max_tokens"] = max(body["max_tokens"], budget + 1024)
        body["thinking"] = {"type": "enabled", "budget_tokens": max(budget, 1024)}
        for name in ("temperature", "top_k"):
            if body.pop(name, None) is not None:
                conversation.leave_out(name)


def _tool_choice(conversation: Conversation) -> dict[str, Any] | None:
    choice = conversation.tool_choice
    kinds = {"auto": "auto", "none": "none", "required": "any", "tool": "tool"}
    written: dict[str, Any] = {"type": kinds[choice.mode] if choice else "auto"}
    if choice and choice.mode == "tool":
        written["name"] = choice.name
    if conversation.parallel_tools is False and written["type"] != "none":
        written["disable_parallel_tool_use"] = True
    elif choice is None:
        return None
    return written


class _Writer:
    """Writes the messages of one request. The API wants turns of user and assistant, results of tools first in the turn after their
    calls, and no empty text."""

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation
        self._marks = 0

    def system(self) -> list[dict[str, Any]]:
        """All system and developer messages: their place among the others is not kept."""
        parts = [
            part
            for message in self._conversation.messages
            if message.role in ("system", "developer")
            for part in message.parts
        ]
        return [*self._blocks(parts)]

    def messages(self) -> list[dict[str, Any]]:
        turns: list[dict[str, Any]] = []
        for message in self._conversation.messages:
            if message.role in ("system", "developer"):
                continue
            results = [*message.of(ToolResultPart)]
            others = [part for part in message.parts if not isinstance(part, ToolResultPart)]
            blocks = [*self._blocks([*results, *others])]
            if not blocks:
                continue
            if turns and turns[-1]["role"] == message.role:
                turns[-1]["content"] += blocks
            else:
                turns.append({"role": message.role, "content": blocks})
        if not turns or turns[0]["role"] != "user":
            turns.insert(0, {"role": "user", "content": [{"type": "text", "text": "Continue."}]})
        return turns

    def tools(self) -> Iterator[dict[str, Any]]:
        for tool in self._conversation.tools:
            if isinstance(tool, NativeTool):
                if tool.origin == NAME:
                    yield tool.value
                else:
                    self._conversation.leave_out(f"tools: {tool.kind}")
                continue
            schema = tool.schema if isinstance(tool.schema, dict) else {"type": "object", "properties": {}}
            if tool.custom:
                schema = FREE_TEXT
            description = described(tool) if tool.custom else tool.description
            values: dict[str, Any] = {"description": description, "strict": tool.strict}
            written: dict[str, Any] = {"name": tool.name, "input_schema": schema}
            written |= {key: value for key, value in values.items() if value is not None}
            yield self._marked(written, tool.cache)

    def _blocks(self, parts: list[Part]) -> Iterator[dict[str, Any]]:
        for part in parts:
            if (block := self._block(part)) is not None:
                yield self._marked(block, getattr(part, "cache", None))

    def _block(self, part: Part) -> dict[str, Any] | None:
        match part:
            case TextPart(text=text):
                return {"type": "text", "text": text} if text.strip() else None
            case ImagePart(url=url):
                return {"type": "image", "source": _source(url)}
            case FilePart(url=url, name=name):
                titled = {"title": name} if name else {}
                return {"type": "document", "source": _source(url), **titled}
            case ReasoningPart(origin="messages", signature=None, encrypted=None):
                return None
            case ReasoningPart(origin="messages", encrypted=data) if data is not None:
                return {"type": "redacted_thinking", "data": data}
            case ReasoningPart(origin="messages"):
                return {"type": "thinking", "thinking": part.text, "signature": part.signature}
            case ReasoningPart():
                # it proves nothing to this vendor, and as text it would be read as an answer
                return None
            case ToolCallPart():
                return {"type": "tool_use", "id": part.id, "name": part.name, "input": arguments_of(part)}
            case ToolResultPart():
                blocks = [*self._blocks([*part.parts])]
                error = {"is_error": True} if part.is_error else {}
                return {"type": "tool_result", "tool_use_id": part.id, "content": blocks, **error}
            case NativePart(origin="messages"):
                value: dict[str, Any] = part.value
                return value
            case NativePart():
                self._conversation.leave_out(part.kind)
            case _:
                self._conversation.leave_out("audio")
        return None

    def _marked(self, block: dict[str, Any], cache: Any) -> dict[str, Any]:
        if cache is None or self._marks >= MAX_CACHE_MARKS:
            return block
        self._marks += 1
        return {**block, "cache_control": cache}


def _source(url: str) -> dict[str, Any]:
    if not url.startswith("data:"):
        return {"type": "url", "url": url}
    head, _, data = url[5:].partition(",")
    return {"type": "base64", "media_type": head.removesuffix(";base64") or "text/plain", "data": data}


def signed(part: ReasoningPart) -> dict[str, Any]:
    """A thinking block for a client, from whichever vendor the reasoning came."""
    if part.origin == NAME:
        if part.encrypted is not None:
            return {"type": "redacted_thinking", "data": part.encrypted}
        return {"type": "thinking", "thinking": part.text, "signature": part.signature or ""}
    return {
        "type": "thinking",
        "thinking": part.text,
        "signature": sign(replace(part, origin=part.origin or "chat")),
    }


def tool_input(arguments: str) -> Any:
    """The input of a tool call from what the model wrote."""
    try:
        return orjson.loads(arguments or "{}")
    except orjson.JSONDecodeError:
        return arguments_of(ToolCallPart("", "", arguments))
