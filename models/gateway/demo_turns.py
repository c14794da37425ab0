"""Turns of `stoa/demo`: which tool it calls with which arguments, or its text.

It runs in a worker process on untrusted requests. So the work per request is limited: the length of the prompt, the
number of tools and of generated values, and regular expressions that take linear time.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import orjson

from models.gateway import demo_citations, demo_descriptions, demo_edits, demo_lists

DEFAULT_WORDS = 70
MAX_WORDS = 4_000
MAX_DEPTH = 6
MAX_PROMPT = 20_000
"""Characters of the prompt that are read."""
MAX_CONVERSATION = 200_000
"""Characters of the conversation that are searched for agents to spawn."""
MAX_TOOLS = 200
"""Offered tools and agents that are considered."""
MAX_NAME = 200
MAX_MATCHES = 20
"""Occurrences of a name that are checked for word boundaries."""
MAX_STEPS = 2_000
"""Values generated for one schema, plus enum choices examined."""
MAX_ITEMS = 100
"""Entries of a list in a schema that are read."""
MAX_BYTES = 64 << 10
"""Size of the values generated for one schema."""


@dataclass(frozen=True, slots=True)
class DemoTurn:
    """One turn of the model: text, or one tool call."""

    text: str = ""
    tool: str | None = None
    arguments: str = ""


def next_turn(body: Mapping[str, Any]) -> DemoTurn:
    """The next turn of the conversation in `body`."""
    messages = [message for message in body.get("messages") or [] if isinstance(message, dict)]
    current = _current_turn(messages)
    prompt = _prompt(current, messages)[:MAX_PROMPT]
    tools = _offered_tools(body)
    done = [name for message in current for name in _called_tools(message)]
    calls = sum(len(message.get("tool_calls") or []) for message in current)
    results = [_text(message) for message in current if message.get("role") in ("tool", "function")]
    system = [_text(message) for message in messages if message.get("role") == "system"]
    said = [_text(message) for message in messages if message.get("role") == "user"]
    if system and said and (words := demo_descriptions.description(system[0], said[-1])) is not None:
        return DemoTurn(words)
    found = demo_citations.passages([*system, *results])
    if body.get("tool_choice") in (None, "auto") and (edit := demo_edits.next_edit(prompt, tools, done)):
        return DemoTurn(tool=edit.tool, arguments=orjson.dumps(edit.arguments).decode())
    tool = _next_tool(
        body.get("tool_choice"), tools, prompt, done, calls - demo_edits.made(prompt, tools, done)
    )
    if tool is None and not found and _may_search(body.get("tool_choice"), tools, done):
        tool = demo_citations.SEARCH
    if tool is not None:
        arguments = _arguments(tool, tools[tool], prompt, messages)
        return DemoTurn(tool=tool, arguments=orjson.dumps(arguments).decode())
    schema = _answer_schema(body.get("response_format"))
    if schema is not None:
        return DemoTurn(orjson.dumps(_value(schema, "", _Hints(prompt), schema)).decode())
    if found or demo_citations.SEARCH in done:
        return DemoTurn(demo_citations.cited(prompt, found))
    if not tools and (answer := demo_lists.listed(system, prompt)) is not None:
        return DemoTurn(answer)
    return DemoTurn(_answer(prompt, results, done))


def _current_turn(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages since the last plain text answer of the assistant."""
    for index in range(len(messages) - 1, -1, -1):
        message = messages[index]
        if message.get("role") == "assistant" and not message.get("tool_calls") and _text(message).strip():
            return messages[index + 1 :]
    return messages


def _prompt(current: list[dict[str, Any]], messages: list[dict[str, Any]]) -> str:
    for group in (current, messages):
        texts = [_text(message) for message in group if message.get("role") == "user"]
        marked = [
            part.partition("</user_message>")[0]
            for text in texts
            for part in text.split("<user_message>", MAX_MATCHES)[1:]
            if "</user_message>" in part
        ]
        if marked:
            return "\n".join(marked).strip()
        if any(text.strip() for text in texts):
            return "\n".join(texts).strip()
    return ""


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = [part.get("text") for part in parts if isinstance(part, dict)]
    return "\n".join(text for text in texts if isinstance(text, str))


_SPAWNED = re.compile(r'"agent_type":\s*"(?:[^"/]*/)?([^"@]+)')


def _called_tools(message: Mapping[str, Any]) -> list[str]:
    """The tools that a message calls and the agents that it spawns, which may also be offered as tools."""
    names = []
    for call in message.get("tool_calls") or []:
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            names.append(str(function.get("name")))
            names += _SPAWNED.findall(str(function.get("arguments"))[:MAX_PROMPT])
    return names


def _offered_tools(body: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    tools: dict[str, Mapping[str, Any]] = {}
    for tool in islice(body.get("tools") or [], MAX_TOOLS):
        function = tool.get("function") if isinstance(tool, dict) else None
        if isinstance(function, dict) and isinstance(function.get("name"), str):
            tools[function["name"]] = function
    return tools


def _next_tool(choice: Any, tools: Mapping[str, Any], prompt: str, done: list[str], calls: int) -> str | None:
    if not tools or choice == "none":
        return None
    called = set(done)
    if isinstance(choice, dict):
        function = choice.get("function")
        name = function.get("name") if isinstance(function, dict) else choice.get("name")
        if isinstance(name, str) and name in tools and name not in called:
            return name
    places = sorted((place, name) for name in tools if (place := _first_mention(name, prompt)) is not None)
    for _, name in places:
        # clients may rename called tools: stop after as many calls as named tools
        if name not in called and calls < len(places):
            return name
    return next(iter(tools)) if choice == "required" and not done else None


def _may_search(choice: Any, tools: Mapping[str, Any], done: list[str]) -> bool:
    """Whether documents can be searched that were not sent whole."""
    return demo_citations.SEARCH in tools and choice != "none" and not done


def _first_mention(name: str, prompt: str) -> int | None:
    """Position of the first whole-word occurrence of the name, within the search limit."""
    return next(_mentions(name, prompt), None)


def _mentions(name: str, text: str) -> Iterator[int]:
    """Positions of whole-word occurrences of the name."""
    if not name or len(name) > MAX_NAME:
        return
    start = text.find(name)
    for _ in range(MAX_MATCHES):
        if start < 0:
            return
        end = start + len(name)
        if not (_is_name_character(text[start - 1 : start]) or _is_name_character(text[end : end + 1])):
            yield start
        start = text.find(name, start + 1)


def _is_name_character(char: str) -> bool:
    return char.isalnum() or char in ("_", "-")


def _answer_schema(form: Any) -> Mapping[str, Any] | None:
    if not isinstance(form, dict):
        return None
    if form.get("type") == "json_object":
        return {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}
    inner = form.get("json_schema")
    schema = inner.get("schema") if isinstance(inner, dict) else None
    return schema if form.get("type") == "json_schema" and isinstance(schema, dict) else None


# -- arguments -----------------------------------------------------------------------------------------------


_QUOTED = re.compile(r"[\"“`']([^\"“”`'\n]{1,400})[\"”`'](?![a-z])")
_URL = re.compile(r"https?://[^\s\"'<>)]+")
_PATH = re.compile(r"[\w./-]+")
_FILE = re.compile(r"[^/]*[\w-]\.[A-Za-z]\w{0,5}")
_NUMBER_LIKE = re.compile(r"(?:(?<![\w.])-)?[\w.]+")
_NUMBER = re.compile(r"(-?\d+(?:\.\d+)?)\.*")
_PLACE = re.compile(r"\b(?:in|for|of|about|at)\s+((?:[A-Z][\w-]*\s?)+)")
_VALUE_AFTER = re.compile(r"(?: is| of| to|:|=)?\s+([\w./@-]+)")


class _Hints:
    """Values in the prompt to fill arguments with, and the remaining budget of generated values."""

    def __init__(self, prompt: str) -> None:
        self.prompt = prompt
        self.lower = prompt.lower()
        self.quoted = _QUOTED.findall(prompt)
        self.urls = [url[:400] for url in _URL.findall(prompt)]
        self.files = [word[:400] for each in _PATH.findall(prompt) if (word := _file(each))]
        self.numbers = [
            float(found[1]) for each in _NUMBER_LIKE.findall(prompt) if (found := _number_in(each))
        ]
        self.place = found[1].strip()[:400] if (found := _PLACE.search(prompt)) else None
        self.words = " ".join(prompt.split())[:400]
        self.steps = MAX_STEPS
        self.bytes = MAX_BYTES

    def spend(self, steps: int) -> bool:
        """Deduct steps from the budget. False if it is exhausted."""
        self.steps -= steps
        return self.steps >= 0 and self.bytes >= 0

    def value_after(self, name: str) -> str | None:
        """The word after the name."""
        for start in _mentions(name, self.lower):
            if found := _VALUE_AFTER.match(self.prompt, start + len(name)):
                return found[1][:400]
        return None


def _file(word: str) -> str | None:
    """The file path in a word; None if it is not one, such as the rest of a URL."""
    word = word.rstrip("./-")
    is_path = "/" in word.strip("/") or _FILE.fullmatch(word)
    return word if is_path and not word.startswith("//") else None


def _number_in(word: str) -> re.Match[str] | None:
    return _NUMBER.fullmatch(word) if len(word) < 16 else None


def _arguments(
    name: str, function: Mapping[str, Any], prompt: str, messages: list[dict[str, Any]]
) -> dict[str, Any]:
    schema = function.get("parameters")
    if name == "spawn_agents":
        return {"agents": [_spawn(function, prompt, messages)]}
    rest = prompt
    for start in reversed(list(_mentions(name, prompt))):
        rest = f"{rest[:start]} {rest[start + len(name) :]}"
    value = _value(schema, name, _Hints(rest), schema) if isinstance(schema, dict) else {}
    return value if isinstance(value, dict) else {}


def _spawn(function: Mapping[str, Any], prompt: str, messages: list[dict[str, Any]]) -> dict[str, Any]:
    text = "\n".join(
        [str(function.get("description") or "")[:MAX_CONVERSATION], *(_text(message) for message in messages)]
    )[:MAX_CONVERSATION]
    known = list(dict.fromkeys(re.findall(r"^- ([a-z0-9][\w./@-]*):", text, re.M)))[:MAX_TOOLS]
    named = re.findall(r"\bagents? (?:named |called )?[`\"']?([a-z0-9][\w./@-]*\w)", prompt)
    mentioned = [agent for agent in known if _first_mention(agent, prompt) is not None]
    others = [word for word in named if word not in ("to", "that", "which", "and", "for", "with")]
    agent = next(iter([*mentioned, *others, *known]), "agent")
    quoted = _QUOTED.findall(prompt)
    task = next((task for task in quoted if task != agent), None)
    if task is None:
        _, _, after = prompt.partition(agent)
        task = after.strip(" .:,`\"'\n") or prompt.replace("spawn_agents", "").strip()
        task = re.sub(r"^(to|that|and have it|which should)\s+", "", task)
    return {"agent_type": agent, "prompt": task[:2000]}


def _value(schema: Any, name: str, hints: _Hints, root: Any, depth: int = 0) -> Any:
    """A plausible value for a JSON schema; None beyond the depth limit or the budget."""
    if not hints.spend(1) or not isinstance(schema, dict) or depth > MAX_DEPTH:
        return None
    if isinstance(schema.get("$ref"), str):
        return _value(_resolve(schema["$ref"], root), name, hints, root, depth + 1)
    for key in ("const", "default"):
        if key in schema:
            return _within_budget(schema[key], hints)
    choices = _first_items(schema.get("enum"))
    if choices:
        hints.spend(len(choices))
        named = (item for item in choices if isinstance(item, str) and 0 < len(item) <= MAX_NAME)
        return _within_budget(next((item for item in named if item in hints.prompt), choices[0]), hints)
    for key in ("anyOf", "oneOf", "allOf"):
        options = _first_items(schema.get(key))
        if options:
            real = [item for item in options if isinstance(item, dict) and item.get("type") != "null"]
            return _value((real or options)[0], name, hints, root, depth + 1)
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((item for item in _first_items(kind) if item != "null"), "null")
    if kind == "object" or (kind is None and isinstance(schema.get("properties"), dict)):
        return _object(schema, hints, root, depth)
    if kind == "array":
        return _array(schema, name, hints, root, depth)
    if kind in ("integer", "number"):
        return _number(schema, kind, hints)
    if kind == "boolean":
        return True
    return None if kind == "null" else _within_budget(_string(schema, name, hints), hints)


def _first_items(value: Any) -> list[Any]:
    return value[:MAX_ITEMS] if isinstance(value, list) else []


def _within_budget(value: Any, hints: _Hints) -> Any:
    """The value; None if it exceeds the remaining bytes."""
    hints.bytes -= len(value) if isinstance(value, str) else len(orjson.dumps(value))
    return value if hints.bytes >= 0 else None


def _array(schema: Mapping[str, Any], name: str, hints: _Hints, root: Any, depth: int) -> list[Any]:
    length = schema.get("minItems")
    size = min(length, 20) if type(length) is int and length > 0 else 1
    items, singular = schema.get("items", {"type": "string"}), name.removesuffix("s")
    made: list[Any] = []
    while len(made) < size and hints.spend(0):
        made.append(_value(items, singular, hints, root, depth + 1))
    return made


def _object(schema: Mapping[str, Any], hints: _Hints, root: Any, depth: int) -> dict[str, Any]:
    properties = schema.get("properties")
    properties = properties if isinstance(properties, dict) else {}
    names = _first_items(schema["required"]) if isinstance(schema.get("required"), list) else properties
    made = {}
    for name in islice(names, MAX_ITEMS):
        if isinstance(name, str) and name in properties and hints.spend(0):
            hints.bytes -= len(name)
            made[name] = _value(properties[name], name, hints, root, depth + 1)
    return made


def _resolve(reference: str, root: Any) -> Any:
    node = root
    for part in reference[: MAX_NAME * MAX_DEPTH].removeprefix("#").strip("/").split("/"):
        node = node.get(part) if isinstance(node, dict) else None
    return node


def _number(schema: Mapping[str, Any], kind: str, hints: _Hints) -> int | float:
    low, high = schema.get("minimum"), schema.get("maximum")
    fitting = (
        number
        for number in islice(hints.numbers, MAX_ITEMS)
        if (kind == "number" or number.is_integer())
        and (not isinstance(low, int | float) or number >= low)
        and (not isinstance(high, int | float) or number <= high)
    )
    number = next(fitting, float(low) if isinstance(low, int | float) else 1.0)
    return int(number) if number.is_integer() and abs(number) < 1 << 53 else number


def _string(schema: Mapping[str, Any], name: str, hints: _Hints) -> str:
    lower = name.lower()
    if schema.get("format") == "uri" or "url" in lower:
        return hints.urls[0] if hints.urls else "https://example.com"
    if any(word in lower for word in ("path", "file", "dir")):
        return str(hints.files[0]) if hints.files else hints.quoted[0] if hints.quoted else "README.md"
    if hints.quoted:
        return str(hints.quoted[0])
    if value := hints.value_after(lower):
        return value
    if hints.place:
        return hints.place
    max_length = schema.get("maxLength")
    text = hints.words or name[:400] or "text"
    return text[: min(max_length, 400) if type(max_length) is int and max_length > 0 else 400]


# -- text ----------------------------------------------------------------------------------------------------

_SENTENCES = (
    "This text is generated by stoa/demo, the demo model that is built into Stoa.",
    "The model runs inside the server process and sends nothing to an external provider.",
    "Its output is deterministic: the same prompt always returns the same text.",
    "It streams, calls the tools that you name, returns structured output and reports its usage.",
    "Input and output tokens are counted, priced and written to the credit ledger, as for any other model.",
    "Before a call starts, the gateway holds credits for its estimated cost.",
    "When the call ends, the gateway settles the actual cost and releases the rest of the hold.",
    "The usage pages show the tokens, the cost and the duration of each call.",
    "Set stream to true to receive this answer in chunks.",
    "Set max_tokens to limit the length of this answer.",
    "Set stop to end the answer before a given string.",
    "Set n to receive several choices in one response.",
    "Name one of the offered tools in your prompt to receive a tool call.",
    "Set response_format to a JSON schema to receive JSON that matches it.",
    "Ask for a number of words, sentences, paragraphs or pages to change the length.",
    "Set the API key of a provider on the server to call its models at the same URL.",
)


def _answer(prompt: str, results: list[str], done: list[str]) -> str:
    start = _first_sentence(prompt, results, done)
    word_limit = _requested_words(prompt)
    words = start.split(" ")
    seed = int(hashlib.sha256(prompt.encode()).hexdigest()[:8], 16)
    index = 0
    while len(words) < word_limit:
        words += _SENTENCES[(seed + index) % len(_SENTENCES)].split(" ")
        index += 1
        if index % 5 == 0 and len(words) < word_limit:
            words[-1] += "\n\n"
    return " ".join(words).replace("\n\n ", "\n\n")


def _first_sentence(prompt: str, results: list[str], done: list[str]) -> str:
    if results:
        result = " ".join(_result_text(results[-1][:MAX_PROMPT]).split())[:400]
        return f"{done[-1][:MAX_NAME] if done else 'The tool'} answered: {result.removesuffix('.') or '(nothing)'}."
    asked = " ".join(prompt.split())
    if found := re.search(
        r"\b(?:say|reply with|answer with|repeat)(?: only)?:?\s+[\"“'`]([^\"“”'`]+)[\"”'`]", asked, re.I
    ):
        return str(found[1])
    if not asked:
        return "This is stoa/demo. Send a prompt to get an answer."
    return f"This is stoa/demo, answering “{asked[:160]}{'…' if len(asked) > 160 else ''}”."


def _result_text(result: str) -> str:
    """A tool's result, or the last text in it if it is JSON."""
    found = re.findall(r'"text":\s*"((?:[^"\\]|\\.)*)"(?=[,}\s])', result)
    texts = [text for text in found if len(text) > 2]
    try:
        return str(orjson.loads(f'"{texts[-1]}"')) if texts else result
    except orjson.JSONDecodeError:
        return result


def _requested_words(prompt: str) -> int:
    """Number of words that the prompt asks for."""
    if re.search(r"\b(?:say|reply with|answer with|repeat)(?: only)?:?\s+[\"“'`]", prompt, re.I):
        return 0
    if found := re.search(r"\b(\d{1,5})[- ](word|sentence|paragraph|page)", prompt):
        words_per = {"word": 1, "sentence": 16, "paragraph": 70, "page": 400}[found[2]]
        return min(int(found[1]) * words_per, MAX_WORDS)
    for word, words in (("page", 400), ("essay", 400), ("paragraph", 70), ("sentence", 16)):
        if re.search(rf"\b(?:a|an|one) (?:\w+ )?{word}\b", prompt):
            return words
    return DEFAULT_WORDS if len(prompt.split()) > 5 else 24
