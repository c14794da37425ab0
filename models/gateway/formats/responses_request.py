"""Requests in the format of OpenAI's Responses API."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from models.gateway.conversation import (
    AudioPart,
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
from models.gateway.formats.foreign_reasoning import open_summary, restore, sign

NAME = "responses"
COMPACTION = "compaction"
"""Requests of `/v1/responses/compact`, which have the same keys."""

NAMESPACE = "__"
"""Between the namespace of a tool and its name, for formats without namespaces."""
SUMMARY = "The conversation until here was replaced by this summary of it:\n\n"
ROLES = ("user", "assistant", "system", "developer")
_KNOWN = frozenset(
    (
        *("model", "input", "instructions", "stream", "stream_options", "tools", "tool_choice"),
        *("parallel_tool_calls", "max_output_tokens", "temperature", "top_p", "reasoning", "text"),
        *("service_tier", "user", "safety_identifier", "prompt_cache_key", "metadata"),
        # what only concerns where the answer is kept, or means nothing elsewhere
        *("store", "include", "truncation", "background", "client_metadata", "prompt_cache_retention"),
    )
)

# -- reading -------------------------------------------------------------------------------------------------


def read_responses(body: Mapping[str, Any]) -> Conversation:
    """A parsed request (`responses_parsing.parse_responses`) in normal form."""
    text, metadata = body.get("text"), body.get("metadata")
    text = text if isinstance(text, dict) else {}
    conversation = Conversation(
        [],
        NAME,
        tools=[*_read_tools(body.get("tools") or ())],
        tool_choice=_read_choice(body.get("tool_choice")),
        parallel_tools=body.get("parallel_tool_calls"),
        max_output=body.get("max_output_tokens"),
        temperature=body.get("temperature"),
        top_p=body.get("top_p"),
        reasoning=_read_reasoning(body.get("reasoning")),
        output=_read_output(text.get("format")),
        verbosity=text.get("verbosity"),
        service_tier=body.get("service_tier"),
        user=body.get("user") or body.get("safety_identifier"),
        cache_key=body.get("prompt_cache_key"),
        metadata=metadata if isinstance(metadata, dict) and metadata else None,
        stream=bool(body.get("stream")),
        other={key: value for key, value in body.items() if key not in _KNOWN and value is not None},
    )
    if body.get("instructions"):
        conversation.messages.append(ConversationMessage("system", (TextPart(body["instructions"]),)))
    given = body.get("input")
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given or ()
    for item in items:
        _add_item(conversation.messages, item)
    return conversation


def _add_item(messages: list[ConversationMessage], item: Mapping[str, Any]) -> None:
    """Add an item. What the model did in one turn is one message, and so are the results that follow it."""
    kind = item.get("type") or "message"
    if kind == "message":
        role = item.get("role")
        role = role if role in ROLES else "user"
        _append(messages, role, (*_read_content(item.get("content")),), join=role == "assistant")
    elif kind == "reasoning":
        _append(messages, "assistant", (_read_reasoning_item(item),))
    elif kind in ("function_call", "custom_tool_call"):
        _append(messages, "assistant", (_read_call(item),))
    elif kind in ("function_call_output", "custom_tool_call_output"):
        result = ToolResultPart(
            str(item.get("call_id") or ""),
            (*_read_content(item.get("output")),),
            custom=kind.startswith("custom"),
        )
        previous = messages[-1] if messages else None
        join = previous is not None and all(isinstance(part, ToolResultPart) for part in previous.parts)
        _append(messages, "user", (result,), join=join)
    elif kind == COMPACTION and (summary := open_summary(item.get("encrypted_content"))):
        _append(messages, "user", (TextPart(SUMMARY + summary),), join=False)
    else:
        role = "user" if kind.endswith("_output") else "assistant"
        _append(messages, role, (NativePart(NAME, str(kind), item),), join=role == "assistant")


def _append(
    messages: list[ConversationMessage], role: Any, parts: tuple[Part, ...], *, join: bool = True
) -> None:
    previous = messages[-1] if messages else None
    if join and previous is not None and previous.role == role:
        messages[-1] = replace(previous, parts=(*previous.parts, *parts))
    else:
        messages.append(ConversationMessage(role, parts))


def _read_content(content: Any) -> Iterator[Part]:
    if isinstance(content, str):
        if content:
            yield TextPart(content)
        return
    for part in content if isinstance(content, list) else ():
        if not isinstance(part, dict):
            continue
        kind, text = part.get("type"), part.get("text")
        image, audio = part.get("image_url"), part.get("input_audio")
        data = part.get("file_data") or part.get("file_url")
        if isinstance(text, str):
            yield TextPart(text)
        elif isinstance(part.get("refusal"), str):
            yield TextPart(part["refusal"])
        elif isinstance(image, str):
            yield ImagePart(image, part.get("detail"))
        elif isinstance(data, str):
            yield FilePart(data, part.get("filename"))
        elif isinstance(audio, dict) and isinstance(audio.get("data"), str):
            yield AudioPart(audio["data"], str(audio.get("format") or "wav"))
        else:
            yield NativePart(NAME, str(kind or "part"), part)


def _read_reasoning_item(item: Mapping[str, Any]) -> ReasoningPart:
    texts = [
        part["text"]
        for key in ("content", "summary")
        for part in item.get(key) or ()
        if isinstance(part, dict) and isinstance(part.get("text"), str)
    ]
    text, encrypted = "\n\n".join(texts), item.get("encrypted_content")
    restored = restore(text, encrypted)
    id = item.get("id")
    return restored or ReasoningPart(
        text, encrypted=encrypted, origin=NAME, id=id if isinstance(id, str) else None
    )


def own_items(given: Any) -> tuple[Any, list[str]]:
    """The input of a request that is passed on to OpenAI, and what was left out of it: reasoning of other vendors means nothing there.
    Summaries that were written here are messages."""
    if not isinstance(given, list):
        return given, []
    items = [_opened(item) for item in given if not _is_foreign(item)]
    return items, [] if len(items) == len(given) else ["input: reasoning of another vendor"]


def _is_foreign(item: Mapping[str, Any]) -> bool:
    return item.get("type") == "reasoning" and restore("", item.get("encrypted_content")) is not None


def _opened(item: Mapping[str, Any]) -> Mapping[str, Any]:
    summary = open_summary(item.get("encrypted_content")) if item.get("type") == COMPACTION else None
    if summary is None:
        return item
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": SUMMARY + summary}]}


def _read_call(item: Mapping[str, Any]) -> ToolCallPart:
    custom = item.get("type") == "custom_tool_call"
    arguments = item.get("input" if custom else "arguments")
    name, namespace = str(item.get("name") or ""), item.get("namespace")
    if isinstance(namespace, str) and namespace:
        name = f"{namespace}{NAMESPACE}{name}"
    text = arguments if isinstance(arguments, str) else ""
    return ToolCallPart(str(item.get("call_id") or item.get("id") or ""), name, text, custom)


def _read_tools(
    tools: Sequence[Mapping[str, Any]], prefix: str = ""
) -> Iterator[ToolDefinition | NativeTool]:
    for tool in tools:
        kind, name = tool.get("type"), tool.get("name")
        if kind == "namespace" and isinstance(tool.get("tools"), list) and not prefix:
            inner = [each for each in tool["tools"] if isinstance(each, dict)]
            yield from _read_tools(inner, f"{name}{NAMESPACE}")
        elif kind == "function" and isinstance(name, str):
            yield ToolDefinition(
                prefix + name, tool.get("description"), tool.get("parameters"), tool.get("strict")
            )
        elif kind == "custom" and isinstance(name, str):
            yield ToolDefinition(
                prefix + name, tool.get("description"), custom=True, grammar=tool.get("format")
            )
        else:
            yield NativeTool(NAME, str(kind or "tool"), tool)


def namespaces_of(body: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """The namespace and the name of each tool that has one, by its flat name."""
    return {
        f"{tool.get('name')}{NAMESPACE}{inner.get('name')}": (str(tool.get("name")), str(inner.get("name")))
        for tool in body.get("tools") or ()
        if tool.get("type") == "namespace"
        for inner in tool.get("tools") or ()
        if isinstance(inner, dict)
    }


def custom_tools_of(body: Mapping[str, Any]) -> frozenset[str]:
    """The names of the custom tools."""
    return frozenset(
        tool.name
        for tool in _read_tools(body.get("tools") or ())
        if isinstance(tool, ToolDefinition) and tool.custom
    )


def _read_choice(choice: Any) -> ToolChoice | None:
    if choice in ("auto", "none", "required"):
        return ToolChoice(choice)
    if isinstance(choice, dict):
        if isinstance(choice.get("name"), str):
            return ToolChoice("tool", choice["name"])
        if choice.get("type") == "allowed_tools" and choice.get("mode") in ("auto", "required"):
            return ToolChoice(choice["mode"])
    return None


def _read_reasoning(reasoning: Any) -> ReasoningRequest | None:
    if not isinstance(reasoning, dict):
        return None
    effort = reasoning.get("effort")
    if effort == "none":
        return ReasoningRequest(enabled=False)
    if effort is None and reasoning.get("summary") is None:
        return None
    return ReasoningRequest(effort if isinstance(effort, str) else None, summary=reasoning.get("summary"))


def _read_output(given: Any) -> OutputFormat | None:
    kind = given.get("type") if isinstance(given, dict) else None
    if kind == "json_schema":
        return OutputFormat(given.get("schema"), str(given.get("name") or "answer"), given.get("strict"))
    return OutputFormat() if kind == "json_object" else None


# -- writing -------------------------------------------------------------------------------------------------


def write_responses(conversation: Conversation) -> dict[str, Any]:
    """A request body. What it cannot express is named in `conversation.left_out`. Nothing is stored at the provider."""
    instructions, items = _items(conversation)
    body: dict[str, Any] = {"input": items, "store": False, "stream": conversation.stream}
    if instructions:
        body["instructions"] = instructions
    if tools := [*_tools(conversation)]:
        body["tools"] = tools
        if conversation.tool_choice is not None:
            body["tool_choice"] = _tool_choice(conversation.tool_choice)
        if conversation.parallel_tools is not None:
            body["parallel_tool_calls"] = conversation.parallel_tools
    values = {
        "max_output_tokens": conversation.max_output,
        "temperature": conversation.temperature,
        "top_p": conversation.top_p,
        "reasoning": _reasoning(conversation.reasoning),
        "text": _text(conversation),
        "service_tier": conversation.service_tier,
        "safety_identifier": conversation.user,
        "prompt_cache_key": conversation.cache_key,
        "metadata": conversation.metadata,
    }
    body |= {key: value for key, value in values.items() if value is not None}
    if conversation.reasoning is not None and conversation.reasoning.enabled:
        body["include"] = ["reasoning.encrypted_content"]
    for name, value in (
        ("top_k", conversation.top_k),
        ("stop", conversation.stop),
        ("seed", conversation.seed),
    ):
        if value is not None and value != []:
            conversation.leave_out(name)
    if conversation.origin == NAME:
        return {**conversation.other, **body}
    for key in conversation.other:
        conversation.leave_out(key)
    return body


def _items(conversation: Conversation) -> tuple[str, list[dict[str, Any]]]:
    """The instructions, which are the first messages of the system, and all other items."""
    instructions: list[str] = []
    items: list[dict[str, Any]] = []
    for message in conversation.messages:
        if message.role == "system" and not items:
            instructions += [part.text for part in message.of(TextPart)]
            continue
        items += _message_items(message, conversation)
    return "\n\n".join(instructions), items


def _message_items(message: ConversationMessage, conversation: Conversation) -> Iterator[dict[str, Any]]:
    content: list[dict[str, Any]] = []
    for part in message.parts:
        item = _item(part, conversation)
        if item is None:
            content += _content(part, message.role, conversation)
            continue
        if content:
            yield {"type": "message", "role": message.role, "content": content}
            content = []
        if item:
            yield item
    if content:
        yield {"type": "message", "role": message.role, "content": content}


def _item(part: Part, conversation: Conversation) -> dict[str, Any] | None:
    """A part that is an item of its own; empty if it is left out; None if it is content of a message."""
    match part:
        case ToolCallPart():
            kind, key = ("custom_tool_call", "input") if part.custom else ("function_call", "arguments")
            return {"type": kind, "call_id": part.id, "name": part.name, key: part.arguments}
        case ToolResultPart():
            kind = "custom_tool_call_output" if part.custom else "function_call_output"
            content = [each for inner in part.parts for each in _content(inner, "user", conversation)]
            texts = [each["text"] for each in content if each["type"] == "input_text"]
            output: Any = "\n".join(texts) if len(texts) == len(content) else content
            if part.is_error and isinstance(output, str):
                output = f"Error: {output}"
            return {"type": kind, "call_id": part.id, "output": output}
        case ReasoningPart(origin="responses") if part.encrypted:
            summary = [{"type": "summary_text", "text": part.text}] if part.text else []
            item = {"type": "reasoning", "summary": summary, "encrypted_content": part.encrypted}
            return item | ({"id": part.id} if part.id else {})
        case ReasoningPart():
            return {}
        case NativePart(origin="responses", value=value) if str(value.get("type")) not in (
            "input_file",
            "part",
        ):
            return dict(value)
    return None


def _content(part: Part, role: str, conversation: Conversation) -> list[dict[str, Any]]:
    kind = "output_text" if role == "assistant" else "input_text"
    match part:
        case TextPart(text=text):
            return [{"type": kind, "text": text}] if text else []
        case ImagePart():
            return [{"type": "input_image", "image_url": part.url, "detail": part.detail or "auto"}]
        case FilePart(url=url) if url.startswith("data:"):
            return [{"type": "input_file", "filename": part.name or "document", "file_data": url}]
        case FilePart():
            return [{"type": "input_file", "file_url": part.url}]
        case AudioPart():
            return [{"type": "input_audio", "input_audio": {"data": part.data, "format": part.format}}]
        case NativePart(origin="responses"):
            return [dict(part.value)]
        case NativePart():
            conversation.leave_out(part.kind)
    return []


def _tools(conversation: Conversation) -> Iterator[dict[str, Any]]:
    for tool in conversation.tools:
        if isinstance(tool, NativeTool):
            if tool.origin == NAME:
                yield tool.value
            else:
                conversation.leave_out(f"tools: {tool.kind}")
        elif tool.custom:
            values = {"description": tool.description, "format": tool.grammar}
            yield {"type": "custom", "name": tool.name} | {k: v for k, v in values.items() if v is not None}
        else:
            yield {
                "type": "function",
                "name": tool.name,
                "description": tool.description,
                "parameters": tool.schema,
                "strict": bool(tool.strict),
            }


def _tool_choice(choice: ToolChoice) -> Any:
    return {"type": "function", "name": choice.name} if choice.mode == "tool" else choice.mode


def _reasoning(reasoning: ReasoningRequest | None) -> dict[str, Any] | None:
    if reasoning is None:
        return None
    if not reasoning.enabled:
        return {"effort": "none"}
    effort = reasoning.effort or ("medium" if reasoning.budget else None)
    found = {"effort": "xhigh" if effort == "max" else effort, "summary": reasoning.summary or "auto"}
    return {key: value for key, value in found.items() if value}


def _text(conversation: Conversation) -> dict[str, Any] | None:
    found: dict[str, Any] = {"verbosity": conversation.verbosity} if conversation.verbosity else {}
    output = conversation.output
    if output is not None and output.schema is None:
        found["format"] = {"type": "json_object"}
    elif output is not None:
        found["format"] = {
            "type": "json_schema",
            "name": output.name,
            "schema": output.schema,
            "strict": bool(output.strict),
        }
    return found or None


def reasoning_item(id: str, part: ReasoningPart) -> dict[str, Any]:
    """A reasoning item for a client, from whichever vendor the reasoning came."""
    encrypted = part.encrypted if part.origin == NAME else sign(replace(part, origin=part.origin or "chat"))
    summary = [{"type": "summary_text", "text": part.text}] if part.text else []
    item: dict[str, Any] = {"id": id, "type": "reasoning", "summary": summary}
    return item if encrypted is None else {**item, "encrypted_content": encrypted}
