"""Requests in the format of Google's Gemini API (`generateContent`)."""

from collections.abc import Iterator, Mapping
from mimetypes import guess_type
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
from models.gateway.conversation.parts import Role
from models.gateway.formats.chat_request import FREE_TEXT, described
from models.gateway.formats.foreign_reasoning import restore
from models.gateway.formats.tool_arguments import arguments_of
from models.gateway.lenient_json import write

NAME = "gemini"

EFFORT_BUDGETS = {
    "minimal": 512,
    "low": 1_024,
    "medium": 8_192,
    "high": 24_576,
    "xhigh": 24_576,
    "max": 24_576,
}
"""Reasoning tokens of an effort: what Google's own compatible API uses."""
_AUDIO = {"audio/wav": "wav", "audio/x-wav": "wav", "audio/mp3": "mp3", "audio/mpeg": "mp3"}
_MODES = {"AUTO": "auto", "NONE": "none", "ANY": "required", "VALIDATED": "auto"}
_KNOWN = frozenset({"contents", "systemInstruction", "tools", "toolConfig", "generationConfig", "model"})
_CONFIG = frozenset(
    (
        *("maxOutputTokens", "temperature", "topP", "topK", "stopSequences", "seed", "responseMimeType"),
        *("responseSchema", "responseJsonSchema", "thinkingConfig", "candidateCount"),
    )
)

# -- reading -------------------------------------------------------------------------------------------------


def read_gemini(body: Mapping[str, Any]) -> Conversation:
    """A parsed request (`gemini_parsing.parse_gemini`, which spells keys in camelCase) in normal form."""
    config = body.get("generationConfig") or {}
    calling = (body.get("toolConfig") or {}).get("functionCallingConfig") or {}
    other = {key: value for key, value in body.items() if key not in _KNOWN and value is not None}
    other |= {key: value for key, value in config.items() if key not in _CONFIG and value is not None}
    conversation = Conversation(
        [],
        NAME,
        tools=[each for tool in body.get("tools") or () for each in _read_tools(tool)],
        tool_choice=_read_choice(calling),
        max_output=config.get("maxOutputTokens"),
        temperature=config.get("temperature"),
        top_p=config.get("topP"),
        top_k=config.get("topK"),
        stop=[*(config.get("stopSequences") or ())],
        seed=config.get("seed"),
        reasoning=_read_reasoning(config.get("thinkingConfig")),
        output=_read_output(config),
        other=other,
    )
    reader = _Reader()
    if system := reader.parts(body.get("systemInstruction")):
        conversation.messages.append(ConversationMessage("system", system))
    for content in body["contents"]:
        role: Role = "assistant" if content.get("role") == "model" else "user"
        conversation.messages.append(ConversationMessage(role, reader.parts(content)))
    return conversation


class _Reader:
    """Reads the parts of one request. Calls without an id are numbered, and results take the numbers in the same order."""

    def __init__(self) -> None:
        self._count = 0
        self._open: dict[str, list[str]] = {}

    def parts(self, content: Any) -> tuple[Part, ...]:
        """The parts of a content."""
        given = content.get("parts") if isinstance(content, dict) else None
        return tuple(self._part(part) for part in given or () if isinstance(part, dict))

    def _part(self, part: Mapping[str, Any]) -> Part:
        text, data, file = part.get("text"), part.get("inlineData"), part.get("fileData")
        call, result = part.get("functionCall"), part.get("functionResponse")
        signature = part.get("thoughtSignature")
        if isinstance(call, dict) and isinstance(call.get("name"), str):
            arguments = write(call.get("args") or {}).decode()
            return ToolCallPart(self._call_id(call), call["name"], arguments, signature=signature)
        if isinstance(result, dict) and isinstance(result.get("name"), str):
            return ToolResultPart(self._result_id(result), (TextPart(_result_text(result.get("response"))),))
        if isinstance(text, str) and part.get("thought") is True:
            return restore(text, signature) or ReasoningPart(text, signature, origin=NAME)
        if isinstance(text, str):
            return TextPart(text)
        if isinstance(data, dict) and isinstance(data.get("data"), str):
            kind = str(data.get("mimeType") or "application/octet-stream")
            if kind in _AUDIO:
                return AudioPart(data["data"], _AUDIO[kind])
            return _file(f"data:{kind};base64,{data['data']}", kind)
        if isinstance(file, dict) and isinstance(file.get("fileUri"), str):
            return _file(file["fileUri"], str(file.get("mimeType") or guess_type(file["fileUri"])[0]))
        return NativePart(NAME, next(iter(part), "part"), part)

    def _call_id(self, call: Mapping[str, Any]) -> str:
        self._count += 1
        id = str(call.get("id") or f"call_{self._count}")
        self._open.setdefault(call["name"], []).append(id)
        return id

    def _result_id(self, result: Mapping[str, Any]) -> str:
        waiting = self._open.get(result["name"])
        if given := result.get("id"):
            if waiting and given in waiting:
                waiting.remove(given)
            return str(given)
        return waiting.pop(0) if waiting else f"call_{result['name']}"


def _file(url: str, kind: str) -> ImagePart | FilePart:
    return ImagePart(url) if kind.startswith("image/") else FilePart(url)


def _result_text(response: Any) -> str:
    """A result is an object; most clients have put a text into it."""
    if isinstance(response, dict) and len(response) == 1:
        value = next(iter(response.values()))
        if isinstance(value, str):
            return value
    return write(response).decode()


def _read_tools(tool: Mapping[str, Any]) -> Iterator[ToolDefinition | NativeTool]:
    for key, value in tool.items():
        if key == "functionDeclarations" and isinstance(value, list):
            for function in value:
                if isinstance(function, dict) and isinstance(function.get("name"), str):
                    schema = function.get("parametersJsonSchema") or json_schema(function.get("parameters"))
                    yield ToolDefinition(function["name"], function.get("description"), schema)
        elif value is not None:
            yield NativeTool(NAME, key, {key: value})


def json_schema(schema: Any) -> Any:
    """A schema of Google's as JSON Schema: types are in lower case there."""
    if isinstance(schema, list):
        return [json_schema(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: json_schema(value) for key, value in schema.items() if key not in ("type", "nullable")}
    kind = schema.get("type")
    if isinstance(kind, str):
        found["type"] = [kind.lower(), "null"] if schema.get("nullable") is True else kind.lower()
    elif kind is not None:
        found["type"] = json_schema(kind)
    return found


def _read_choice(calling: Mapping[str, Any]) -> ToolChoice | None:
    names, mode = calling.get("allowedFunctionNames"), str(calling.get("mode") or "").upper()
    if mode == "ANY" and isinstance(names, list) and len(names) == 1:
        return ToolChoice("tool", str(names[0]))
    found = _MODES.get(mode)
    return ToolChoice(found) if found else None  # type: ignore[arg-type]


def _read_reasoning(thinking: Any) -> ReasoningRequest | None:
    if not isinstance(thinking, dict):
        return None
    level, budget = thinking.get("thinkingLevel"), thinking.get("thinkingBudget")
    if isinstance(level, str):
        return ReasoningRequest(level.lower())
    if type(budget) is int and budget >= 0:
        return ReasoningRequest(budget=budget) if budget else ReasoningRequest(enabled=False)
    return ReasoningRequest("medium") if thinking.get("includeThoughts") or budget == -1 else None


def _read_output(config: Mapping[str, Any]) -> OutputFormat | None:
    if config.get("responseMimeType") != "application/json":
        return None
    return OutputFormat(config.get("responseJsonSchema") or json_schema(config.get("responseSchema")))


# -- writing -------------------------------------------------------------------------------------------------


def write_gemini(conversation: Conversation) -> dict[str, Any]:
    """A request body. What it cannot express is named in `conversation.left_out`."""
    body: dict[str, Any] = {"contents": _contents(conversation)}
    system = [
        {"text": part.text}
        for message in conversation.messages
        if message.role in ("system", "developer")
        for part in message.of(TextPart)
    ]
    if system:
        body["systemInstruction"] = {"parts": system}
    if tools := [*_tools(conversation)]:
        body["tools"] = tools
        if (choice := conversation.tool_choice) is not None:
            modes = {"auto": "AUTO", "none": "NONE", "required": "ANY", "tool": "ANY"}
            named = {"allowedFunctionNames": [choice.name]} if choice.mode == "tool" else {}
            body["toolConfig"] = {"functionCallingConfig": {"mode": modes[choice.mode], **named}}
    if config := _config(conversation):
        body["generationConfig"] = config
    unsupported = ("parallel_tools", "verbosity", "service_tier", "user", "cache_key", "metadata")
    for name in unsupported:
        if getattr(conversation, name) not in (None, True):
            conversation.leave_out(_CLIENTS_NAMES.get(name, name))
    for key in conversation.other:
        conversation.leave_out(key)
    return body


_CLIENTS_NAMES = {"parallel_tools": "parallel_tool_calls", "cache_key": "prompt_cache_key"}


def _config(conversation: Conversation) -> dict[str, Any]:
    values: dict[str, Any] = {
        "maxOutputTokens": conversation.max_output,
        "temperature": conversation.temperature,
        "topP": conversation.top_p,
        "topK": conversation.top_k,
        "stopSequences": conversation.stop or None,
        "seed": conversation.seed,
    }
    if (output := conversation.output) is not None:
        values |= {"responseMimeType": "application/json", "responseJsonSchema": output.schema}
    if (reasoning := conversation.reasoning) is not None:
        budget = reasoning.budget or EFFORT_BUDGETS.get(reasoning.effort or "medium", 8_192)
        values["thinkingConfig"] = {
            "thinkingBudget": budget if reasoning.enabled else 0,
            "includeThoughts": reasoning.enabled,
        }
    return {key: value for key, value in values.items() if value is not None}


def _contents(conversation: Conversation) -> list[dict[str, Any]]:
    """Turns of user and model, with the name of its function on each result."""
    names = {call.id: call.name for message in conversation.messages for call in message.of(ToolCallPart)}
    contents: list[dict[str, Any]] = []
    for message in conversation.messages:
        if message.role in ("system", "developer"):
            continue
        role = "model" if message.role == "assistant" else "user"
        parts = [each for part in message.parts for each in _written(part, names, conversation)]
        if parts and contents and contents[-1]["role"] == role:
            contents[-1]["parts"] += parts
        elif parts:
            contents.append({"role": role, "parts": parts})
    return contents


def _written(part: Part, names: Mapping[str, str], conversation: Conversation) -> Iterator[dict[str, Any]]:
    match part:
        case TextPart(text=text):
            if text:
                yield {"text": text}
        case ImagePart(url=url):
            yield _data(url, "image/jpeg")
        case FilePart(url=url):
            yield _data(url, "application/pdf")
        case AudioPart():
            yield {"inlineData": {"mimeType": f"audio/{part.format}", "data": part.data}}
        case ReasoningPart(origin="gemini"):
            signed = {"thoughtSignature": part.signature} if part.signature else {}
            yield {"text": part.text, "thought": True, **signed}
        case ToolCallPart():
            signed = {"thoughtSignature": part.signature} if part.signature else {}
            yield {"functionCall": {"id": part.id, "name": part.name, "args": arguments_of(part)}, **signed}
        case ToolResultPart():
            text = "\n".join(each.text for each in part.parts if isinstance(each, TextPart))
            key = "error" if part.is_error else "output"
            result = {"id": part.id, "name": names.get(part.id, part.id), "response": {key: text}}
            yield {"functionResponse": result}
            for each in part.parts:
                if not isinstance(each, TextPart):
                    yield from _written(each, names, conversation)
        case NativePart(origin="gemini"):
            yield part.value
        case NativePart():
            conversation.leave_out(part.kind)


def _data(url: str, usual: str) -> dict[str, Any]:
    """Data, or an address with the type that its name suggests: Google wants one. `usual`: the type if it suggests none."""
    if not url.startswith("data:"):
        return {"fileData": {"fileUri": url, "mimeType": guess_type(url)[0] or usual}}
    head, _, data = url[5:].partition(",")
    return {"inlineData": {"mimeType": head.removesuffix(";base64") or "text/plain", "data": data}}


def _tools(conversation: Conversation) -> Iterator[dict[str, Any]]:
    functions = []
    for tool in conversation.tools:
        if isinstance(tool, NativeTool):
            if tool.origin == NAME:
                yield tool.value
            else:
                conversation.leave_out(f"tools: {tool.kind}")
            continue
        description = described(tool) if tool.custom else tool.description
        schema = FREE_TEXT if tool.custom else tool.schema
        values = {"description": description, "parametersJsonSchema": schema}
        functions.append({"name": tool.name} | {key: v for key, v in values.items() if v is not None})
    if functions:
        yield {"functionDeclarations": functions}
