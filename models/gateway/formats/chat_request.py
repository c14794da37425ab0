"""Requests in the format of OpenAI's chat completions, with the extensions of OpenRouter and of servers of open models."""

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
from models.gateway.lenient_json import NotJson, read, write

NAME = "chat"

REASONING_FORMATS = {
    "messages": "anthropic-claude-v1",
    "responses": "openai-responses-v1",
    "gemini": "google-gemini-v1",
}
"""OpenRouter's names of the formats in which vendors prove reasoning."""
_ORIGINS = {name: origin for origin, name in REASONING_FORMATS.items()}

# -- writing -------------------------------------------------------------------------------------------------


def write_chat(conversation: Conversation) -> dict[str, Any]:
    """A request body. What it cannot express is named in `conversation.left_out`."""
    body: dict[str, Any] = {"messages": [*_written(conversation)], "stream": conversation.stream}
    if tools := [*_tools(conversation)]:
        body["tools"] = tools
        if conversation.tool_choice is not None:
            body["tool_choice"] = _tool_choice(conversation.tool_choice)
        if conversation.parallel_tools is not None:
            body["parallel_tool_calls"] = conversation.parallel_tools
    values = {
        "max_tokens": conversation.max_output,
        "temperature": conversation.temperature,
        "top_p": conversation.top_p,
        "top_k": conversation.top_k,
        "stop": conversation.stop or None,
        "seed": conversation.seed,
        "reasoning": _reasoning(conversation.reasoning),
        "response_format": _response_format(conversation.output),
        "verbosity": conversation.verbosity,
        "service_tier": conversation.service_tier,
        "user": conversation.user,
        "prompt_cache_key": conversation.cache_key,
        "metadata": conversation.metadata,
    }
    body |= {key: value for key, value in values.items() if value is not None}
    if conversation.origin == NAME:
        return {**conversation.other, **body}
    for key in conversation.other:
        conversation.leave_out(key)
    return body


def _written(conversation: Conversation) -> Iterator[dict[str, Any]]:
    for message in conversation.messages:
        if message.role == "assistant":
            yield _assistant(message, conversation)
            continue
        shown: list[Part] = []
        for result in message.of(ToolResultPart):
            yield _tool_message(result, shown, conversation)
        content = [part for part in message.parts if not isinstance(part, ToolResultPart)]
        if content or shown or not message.parts:
            parts = [*_parts([*shown, *content], conversation)]
            yield {"role": message.role, "content": _content(parts)}


def _tool_message(result: ToolResultPart, shown: list[Part], conversation: Conversation) -> dict[str, Any]:
    """The message of a tool's result. Its images follow in `shown`, as parts of the user's next message: tool messages take only
    text."""
    texts = [part for part in result.parts if isinstance(part, TextPart)]
    shown += [part for part in result.parts if not isinstance(part, TextPart)]
    text = "\n".join(part.text for part in texts)
    if result.is_error:
        text = f"Error: {text}" if text else "Error"
    message = {"role": "tool", "tool_call_id": result.id, "content": text}
    return message if result.cache is None else {**message, "cache_control": result.cache}


def _assistant(message: ConversationMessage, conversation: Conversation) -> dict[str, Any]:
    own = conversation.origin == NAME
    calls = [
        {
            "id": call.id,
            "type": "custom" if call.custom and own else "function",
            ("custom" if call.custom and own else "function"): {
                "name": call.name,
                ("input" if call.custom and own else "arguments"): _arguments(call, own),
            },
            **(
                {"extra_content": {"google": {"thought_signature": call.signature}}} if call.signature else {}
            ),
        }
        for call in message.of(ToolCallPart)
    ]
    others = [part for part in message.parts if not isinstance(part, ToolCallPart | ReasoningPart)]
    content = _content([*_parts(others, conversation)])
    written: dict[str, Any] = {"role": "assistant", "content": content if content or not calls else None}
    if calls:
        written["tool_calls"] = calls
    reasoning = [*message.of(ReasoningPart)]
    if text := "".join(part.text for part in reasoning if part.origin in ("", NAME)):
        written["reasoning_content"] = text
    details = [
        detail
        for part in reasoning
        if part.origin in REASONING_FORMATS
        for detail in _reasoning_details(part)
    ]
    if details:
        written["reasoning_details"] = [{**detail, "index": at} for at, detail in enumerate(details)]
    return written


def _arguments(call: ToolCallPart, own: bool) -> str:
    return write({"input": call.arguments}).decode() if call.custom and not own else call.arguments


def _reasoning_details(part: ReasoningPart) -> Iterator[dict[str, Any]]:
    head: dict[str, Any] = {"format": REASONING_FORMATS[part.origin]}
    if part.id:
        head["id"] = part.id
    if part.signature:
        yield {"type": "reasoning.text", "text": part.text, "signature": part.signature, **head}
    elif part.text:
        yield {"type": "reasoning.summary", "summary": part.text, **head}
    if part.encrypted:
        yield {"type": "reasoning.encrypted", "data": part.encrypted, **head}


def _parts(parts: Sequence[Part], conversation: Conversation) -> Iterator[dict[str, Any]]:
    for part in parts:
        written: dict[str, Any]
        match part:
            case TextPart():
                written = {"type": "text", "text": part.text}
            case ImagePart():
                image = {"url": part.url} | ({"detail": part.detail} if part.detail else {})
                written = {"type": "image_url", "image_url": image}
            case AudioPart():
                written = {"type": "input_audio", "input_audio": {"data": part.data, "format": part.format}}
            case FilePart():
                file = {"file_data": part.url, "filename": part.name or "document"}
                written = {"type": "file", "file": file}
            case NativePart(origin="chat"):
                written = part.value
            case NativePart():
                conversation.leave_out(part.kind)
                continue
            case _:
                continue
        cache = getattr(part, "cache", None)
        yield written if cache is None else {**written, "cache_control": cache}


def _content(parts: list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    """One plain text as a string, which every server takes."""
    if not parts:
        return ""
    if len(parts) == 1 and parts[0].keys() == {"type", "text"}:
        text: str = parts[0]["text"]
        return text
    return parts


def _tools(conversation: Conversation) -> Iterator[dict[str, Any]]:
    for tool in conversation.tools:
        if isinstance(tool, NativeTool):
            if tool.origin == NAME:
                yield tool.value
            else:
                conversation.leave_out(f"tools: {tool.kind}")
            continue
        values = {"description": tool.description, "parameters": tool.schema, "strict": tool.strict}
        custom = tool.custom and conversation.origin == NAME
        if custom:
            values = {"description": tool.description, "format": tool.grammar}
        elif tool.custom:
            # few servers know tools that take free text
            values = {"description": described(tool), "parameters": FREE_TEXT}
        inner = {"name": tool.name} | {key: value for key, value in values.items() if value is not None}
        kind = "custom" if custom else "function"
        written: dict[str, Any] = {"type": kind, kind: inner}
        yield written if tool.cache is None else {**written, "cache_control": tool.cache}


FREE_TEXT = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}
"""The parameters of a custom tool in formats that have none: its text."""


def described(tool: ToolDefinition) -> str | None:
    """The description of a custom tool, with the grammar of its text: such a function cannot enforce that."""
    grammar = tool.grammar.get("definition") if isinstance(tool.grammar, dict) else None
    if not isinstance(grammar, str):
        return tool.description
    return f"{tool.description or ''}\n\n'input' must follow this grammar:\n{grammar}".lstrip()


def free_text(call: ToolCallPart) -> str:
    """The input of a custom tool: other formats know it as a function with one parameter."""
    if call.custom:
        return call.arguments
    try:
        value = read(call.arguments.encode("utf-8", "replace")).value
    except NotJson:
        return call.arguments
    text = value.get("input") if isinstance(value, dict) else None
    return text if isinstance(text, str) else call.arguments


def _tool_choice(choice: ToolChoice) -> Any:
    if choice.mode == "tool":
        return {"type": "function", "function": {"name": choice.name}}
    return choice.mode


def _reasoning(reasoning: ReasoningRequest | None) -> dict[str, Any] | None:
    """OpenRouter's object, which the providers' adapters translate."""
    if reasoning is None:
        return None
    if not reasoning.enabled:
        return {"enabled": False}
    if reasoning.budget is not None:
        return {"max_tokens": reasoning.budget}
    effort = "high" if reasoning.effort == "max" else reasoning.effort
    return {"effort": effort} if effort else None


def _response_format(output: OutputFormat | None) -> dict[str, Any] | None:
    if output is None:
        return None
    if output.schema is None:
        return {"type": "json_object"}
    schema = {"name": output.name, "schema": output.schema}
    return {
        "type": "json_schema",
        "json_schema": schema | ({} if output.strict is None else {"strict": output.strict}),
    }


# -- reading -------------------------------------------------------------------------------------------------

_KNOWN = frozenset(
    (
        *("model", "messages", "stream", "stream_options", "tools", "tool_choice", "parallel_tool_calls"),
        *(
            "max_tokens",
            "max_completion_tokens",
            "temperature",
            "top_p",
            "top_k",
            "stop",
            "seed",
            "reasoning",
        ),
        *("reasoning_effort", "response_format", "verbosity", "service_tier", "user", "prompt_cache_key"),
        *("metadata", "thinking"),
    )
)

_DEFAULTS: Mapping[str, Any] = {
    "n": 1,
    "frequency_penalty": 0,
    "presence_penalty": 0,
    "logit_bias": {},
    "logprobs": False,
    "top_logprobs": 0,
    "store": False,
    "modalities": ["text"],
}
"""Values that many clients send and that change nothing."""


def read_chat(body: Mapping[str, Any]) -> Conversation:
    """A parsed request (`chat_parsing.parse`) in normal form."""
    stop = body.get("stop")
    metadata = body.get("metadata")
    conversation = Conversation(
        [],
        NAME,
        tool_choice=_read_choice(body.get("tool_choice")),
        parallel_tools=body.get("parallel_tool_calls"),
        max_output=body.get("max_completion_tokens") or body.get("max_tokens"),
        temperature=body.get("temperature"),
        top_p=body.get("top_p"),
        top_k=body.get("top_k"),
        stop=[stop] if isinstance(stop, str) else [*(stop or ())],
        seed=body.get("seed"),
        reasoning=_read_reasoning(body),
        output=_read_output(body.get("response_format")),
        verbosity=body.get("verbosity"),
        service_tier=body.get("service_tier"),
        user=body.get("user"),
        cache_key=body.get("prompt_cache_key"),
        metadata=metadata if isinstance(metadata, dict) else None,
        stream=bool(body.get("stream")),
        other={
            key: value
            for key, value in body.items()
            if not (key in _KNOWN or value is None or (key in _DEFAULTS and value == _DEFAULTS[key]))
        },
    )
    conversation.tools = [_read_tool(tool) for tool in body.get("tools") or ()]
    for message in body["messages"]:
        _add_message(conversation.messages, message)
    return conversation


def _add_message(messages: list[ConversationMessage], message: Mapping[str, Any]) -> None:
    """Add a message; consecutive results of tools are one message, as are the user's words after them."""
    role, parts = message["role"], (*_read_content(message.get("content")),)
    if role in ("tool", "function"):
        result = ToolResultPart(
            str(message.get("tool_call_id") or message.get("name") or ""),
            parts,
            cache=message.get("cache_control"),
        )
        previous = messages[-1] if messages else None
        if previous and previous.role == "user" and any(previous.of(ToolResultPart)):
            messages[-1] = ConversationMessage("user", (*previous.parts, result))
        else:
            messages.append(ConversationMessage("user", (result,)))
        return
    if role == "assistant":
        calls = [_read_call(call) for call in message.get("tool_calls") or ()]
        if isinstance(legacy := message.get("function_call"), dict):
            # its result refers to it by its name
            name = str(legacy.get("name"))
            calls.append(ToolCallPart(name, name, _text(legacy.get("arguments"))))
        parts = (*_read_message_reasoning(message), *parts, *calls)
    elif role not in ("system", "developer"):
        role = "user"
    messages.append(ConversationMessage(role, parts))


def _read_content(content: Any) -> Iterator[Part]:
    if isinstance(content, str):
        if content:
            yield TextPart(content)
        return
    for part in content or ():
        kind, cache = part.get("type"), part.get("cache_control")
        image, audio, file = part.get("image_url"), part.get("input_audio"), part.get("file")
        if isinstance(part.get("text"), str) and kind in ("text", "input_text", "output_text", None):
            yield TextPart(part["text"], cache)
        elif isinstance(part.get("refusal"), str):
            yield TextPart(part["refusal"])
        elif isinstance(image, dict) and isinstance(image.get("url"), str):
            yield ImagePart(image["url"], image.get("detail"), cache)
        elif isinstance(image, str):
            yield ImagePart(image, part.get("detail"), cache)
        elif isinstance(audio, dict) and isinstance(audio.get("data"), str):
            yield AudioPart(audio["data"], str(audio.get("format") or "wav"))
        elif isinstance(file, dict) and isinstance(file.get("file_data"), str):
            yield FilePart(file["file_data"], file.get("filename"), cache)
        else:
            yield NativePart(NAME, str(kind or "part"), part)


def _read_call(call: Mapping[str, Any]) -> ToolCallPart:
    custom = call.get("custom")
    function = custom if isinstance(custom, dict) else call.get("function")
    function = function if isinstance(function, dict) else {}
    arguments = function.get("input" if isinstance(custom, dict) else "arguments")
    google = (call.get("extra_content") or {}).get("google")
    signature = google.get("thought_signature") if isinstance(google, dict) else None
    return ToolCallPart(
        str(call.get("id") or ""),
        str(function.get("name") or ""),
        _text(arguments),
        isinstance(custom, dict),
        signature,
    )


def _read_message_reasoning(message: Mapping[str, Any]) -> Iterator[ReasoningPart]:
    details = message.get("reasoning_details")
    if isinstance(details, list) and details:
        yield from read_reasoning_details(details)
        return
    text = message.get("reasoning_content") or message.get("reasoning")
    if isinstance(text, str) and text:
        yield ReasoningPart(text, origin=NAME)


def read_reasoning_details(details: list[Any]) -> Iterator[ReasoningPart]:
    """OpenRouter's list of reasoning. A summary and its encrypted form are one part."""
    previous: ReasoningPart | None = None
    for detail in details:
        if not isinstance(detail, dict):
            continue
        origin = _ORIGINS.get(str(detail.get("format")), NAME)
        text = detail.get("text") or detail.get("summary") or ""
        part = ReasoningPart(
            text if isinstance(text, str) else "",
            detail.get("signature"),
            detail.get("data"),
            origin,
            detail.get("id"),
        )
        if previous is not None and part.encrypted and part.id and previous.id == part.id:
            part, previous = replace(part, text=previous.text), None
        if previous is not None:
            yield previous
        previous = part
    if previous is not None:
        yield previous


def _read_tool(tool: Mapping[str, Any]) -> ToolDefinition | NativeTool:
    function, custom = tool.get("function"), tool.get("custom")
    cache = tool.get("cache_control")
    if isinstance(custom, dict) and isinstance(custom.get("name"), str):
        return ToolDefinition(
            custom["name"],
            custom.get("description"),
            custom=True,
            grammar=custom.get("format"),
            cache=cache,
        )
    if isinstance(function, dict) and isinstance(function.get("name"), str):
        return ToolDefinition(
            function["name"],
            function.get("description"),
            function.get("parameters"),
            function.get("strict"),
            cache=cache,
        )
    return NativeTool(NAME, str(tool.get("type") or "tool"), tool)


def _read_choice(choice: Any) -> ToolChoice | None:
    if choice in ("auto", "none", "required"):
        return ToolChoice(choice)
    if isinstance(choice, dict):
        named = choice.get("function") or choice.get("custom")
        if isinstance(named, dict) and isinstance(named.get("name"), str):
            return ToolChoice("tool", named["name"])
    return None


def _read_reasoning(body: Mapping[str, Any]) -> ReasoningRequest | None:
    reasoning, thinking = body.get("reasoning"), body.get("thinking")
    if isinstance(reasoning, dict):
        effort, budget = reasoning.get("effort"), reasoning.get("max_tokens")
        return ReasoningRequest(
            effort if isinstance(effort, str) else None,
            budget if type(budget) is int else None,
            reasoning.get("enabled") is not False,
        )
    if isinstance(thinking, dict):
        budget = thinking.get("budget_tokens")
        return ReasoningRequest(
            budget=budget if type(budget) is int else None, enabled=thinking.get("type") != "disabled"
        )
    effort = body.get("reasoning_effort")
    if not isinstance(effort, str):
        return _read_google(body)
    return ReasoningRequest(enabled=False) if effort == "none" else ReasoningRequest(effort)


def _read_google(body: Mapping[str, Any]) -> ReasoningRequest | None:
    """Google's own settings, as its compatible API takes them."""
    extra = body.get("extra_body")
    google = (extra if isinstance(extra, dict) else body).get("google")
    config = google.get("thinking_config") if isinstance(google, dict) else None
    if not isinstance(config, dict):
        return None
    level, budget = config.get("thinking_level"), config.get("thinking_budget")
    if isinstance(level, str):
        return ReasoningRequest(level.lower())
    if type(budget) is int and budget >= 0:
        return ReasoningRequest(budget=budget) if budget else ReasoningRequest(enabled=False)
    return ReasoningRequest("medium") if config.get("include_thoughts") is True else None


def _read_output(given: Any) -> OutputFormat | None:
    if not isinstance(given, dict):
        return None
    schema = given.get("json_schema")
    if given.get("type") == "json_schema" and isinstance(schema, dict):
        return OutputFormat(schema.get("schema"), str(schema.get("name") or "answer"), schema.get("strict"))
    return OutputFormat() if given.get("type") == "json_object" else None


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else write(value).decode()
