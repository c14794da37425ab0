"""What `stoa/demo` does next: which tool it calls with which arguments, or what it says.

It runs in a process that serves others, on requests that anybody may write. So it looks at so much of a prompt and so many
tools, makes so many values of a schema, and matches with patterns whose work grows as their text does.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import orjson

DEFAULT_WORDS = 70
MOST_WORDS = 4_000
MOST_DEPTH = 6
READS = 20_000
"""Characters of the prompt that decide what it does."""
READS_AGENTS = 200_000
"""Characters of the conversation in which agents to spawn are looked for."""
MOST_TOOLS = 200
"""Tools and agents that it knows of those offered."""
MOST_NAME = 200
MOST_TRIES = 20
"""Places where a name is looked at whether it stands alone there."""
MOST_STEPS = 2_000
"""Values made of one schema, and choices looked at for them."""
MOST_LISTED = 100
"""Entries of a list in a schema that are looked at."""
MOST_BYTES = 64 << 10
"""Of the values made of one schema."""


@dataclass(frozen=True, slots=True)
class DemoTurn:
    """What the model does next: text, or one tool call."""

    text: str = ""
    tool: str | None = None
    arguments: str = ""


def turn(body: Mapping[str, Any]) -> DemoTurn:
    """The next turn of the conversation in `body`."""
    messages = [message for message in body.get("messages") or [] if isinstance(message, dict)]
    current = _current(messages)
    prompt = _prompt(current, messages)[:READS]
    tools = _offered(body)
    done = [name for message in current for name in _called(message)]
    calls = sum(len(message.get("tool_calls") or []) for message in current)
    wanted = _wanted(body.get("tool_choice"), tools, prompt, done, calls)
    if wanted is not None:
        arguments = _arguments(wanted, tools[wanted], prompt, messages)
        return DemoTurn(tool=wanted, arguments=orjson.dumps(arguments).decode())
    schema = _answer_schema(body.get("response_format"))
    if schema is not None:
        return DemoTurn(orjson.dumps(_value(schema, "", _Hints(prompt), schema)).decode())
    results = [_text(message) for message in current if message.get("role") in ("tool", "function")]
    return DemoTurn(_essay(prompt, results, done))


def _current(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages since the assistant last answered in plain text."""
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
            for part in text.split("<user_message>", MOST_TRIES)[1:]
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


def _called(message: Mapping[str, Any]) -> list[str]:
    """The tools a message calls, and the agents it spawns: those may be offered as tools of their own."""
    names = []
    for call in message.get("tool_calls") or []:
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            names.append(str(function.get("name")))
            names += _SPAWNED.findall(str(function.get("arguments"))[:READS])
    return names


def _offered(body: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    tools: dict[str, Mapping[str, Any]] = {}
    for tool in islice(body.get("tools") or [], MOST_TOOLS):
        function = tool.get("function") if isinstance(tool, dict) else None
        if isinstance(function, dict) and isinstance(function.get("name"), str):
            tools[function["name"]] = function
    return tools


def _wanted(choice: Any, tools: Mapping[str, Any], prompt: str, done: list[str], calls: int) -> str | None:
    if not tools or choice == "none":
        return None
    over = set(done)
    if isinstance(choice, dict):
        function = choice.get("function")
        name = function.get("name") if isinstance(function, dict) else choice.get("name")
        if isinstance(name, str) and name in tools and name not in over:
            return name
    places = sorted((place, name) for name in tools if (place := _mention(name, prompt)) is not None)
    for _, name in places:
        # a client may rename what was called, so as many calls as names are enough
        if name not in over and calls < len(places):
            return name
    return next(iter(tools)) if choice == "required" and not done else None


def _mention(name: str, prompt: str) -> int | None:
    """Where the name stands alone for the first time, as far as it is looked for."""
    return next(_alone(name, prompt), None)


def _alone(name: str, text: str) -> Iterator[int]:
    """Where the name stands alone."""
    if not name or len(name) > MOST_NAME:
        return
    at = text.find(name)
    for _ in range(MOST_TRIES):
        if at < 0:
            return
        end = at + len(name)
        if not (_inside(text[at - 1 : at]) or _inside(text[end : end + 1])):
            yield at
        at = text.find(name, at + 1)


def _inside(char: str) -> bool:
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
_FIGURE = re.compile(r"(?:(?<![\w.])-)?[\w.]+")
_NUMBER = re.compile(r"(-?\d+(?:\.\d+)?)\.*")
_PLACE = re.compile(r"\b(?:in|for|of|about|at)\s+((?:[A-Z][\w-]*\s?)+)")
_SAID_OF = re.compile(r"(?: is| of| to|:|=)?\s+([\w./@-]+)")


class _Hints:
    """What the prompt offers to fill arguments with, and how much more may be made of it."""

    def __init__(self, prompt: str) -> None:
        self.prompt = prompt
        self.lower = prompt.lower()
        self.quoted = _QUOTED.findall(prompt)
        self.urls = [url[:400] for url in _URL.findall(prompt)]
        self.files = [word[:400] for each in _PATH.findall(prompt) if (word := _file(each))]
        self.numbers = [float(found[1]) for each in _FIGURE.findall(prompt) if (found := _number_in(each))]
        self.place = found[1].strip()[:400] if (found := _PLACE.search(prompt)) else None
        self.words = " ".join(prompt.split())[:400]
        self.steps = MOST_STEPS
        self.bytes = MOST_BYTES

    def spend(self, steps: int) -> bool:
        """Whether there is enough left for so many steps; they are taken."""
        self.steps -= steps
        return self.steps >= 0 and self.bytes >= 0

    def said_of(self, name: str) -> str | None:
        """The word that follows the name."""
        for at in _alone(name, self.lower):
            if found := _SAID_OF.match(self.prompt, at + len(name)):
                return found[1][:400]
        return None


def _file(word: str) -> str | None:
    """The path in a run of letters, dots and slashes; the rest of an address is none."""
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
    for at in reversed(list(_alone(name, prompt))):
        rest = f"{rest[:at]} {rest[at + len(name) :]}"
    value = _value(schema, name, _Hints(rest), schema) if isinstance(schema, dict) else {}
    return value if isinstance(value, dict) else {}


def _spawn(function: Mapping[str, Any], prompt: str, messages: list[dict[str, Any]]) -> dict[str, Any]:
    told = "\n".join(
        [str(function.get("description") or "")[:READS_AGENTS], *(_text(message) for message in messages)]
    )[:READS_AGENTS]
    known = list(dict.fromkeys(re.findall(r"^- ([a-z0-9][\w./@-]*):", told, re.M)))[:MOST_TOOLS]
    named = re.findall(r"\bagents? (?:named |called )?[`\"']?([a-z0-9][\w./@-]*\w)", prompt)
    mentioned = [agent for agent in known if _mention(agent, prompt) is not None]
    others = [word for word in named if word not in ("to", "that", "which", "and", "for", "with")]
    agent = next(iter([*mentioned, *others, *known]), "agent")
    quoted = _QUOTED.findall(prompt)
    task = next((text for text in quoted if text != agent), None)
    if task is None:
        _, _, after = prompt.partition(agent)
        task = after.strip(" .:,`\"'\n") or prompt.replace("spawn_agents", "").strip()
        task = re.sub(r"^(to|that|and have it|which should)\s+", "", task)
    return {"agent_type": agent, "prompt": task[:2000]}


def _value(schema: Any, name: str, hints: _Hints, root: Any, depth: int = 0) -> Any:
    """A plausible value for a JSON schema; None for all that is too deep or too much."""
    if not hints.spend(1) or not isinstance(schema, dict) or depth > MOST_DEPTH:
        return None
    if isinstance(schema.get("$ref"), str):
        return _value(_resolve(schema["$ref"], root), name, hints, root, depth + 1)
    for key in ("const", "default"):
        if key in schema:
            return _weighed(schema[key], hints)
    choices = _few(schema.get("enum"))
    if choices:
        hints.spend(len(choices))
        named = (item for item in choices if isinstance(item, str) and 0 < len(item) <= MOST_NAME)
        return _weighed(next((item for item in named if item in hints.prompt), choices[0]), hints)
    for key in ("anyOf", "oneOf", "allOf"):
        options = _few(schema.get(key))
        if options:
            real = [item for item in options if isinstance(item, dict) and item.get("type") != "null"]
            return _value((real or options)[0], name, hints, root, depth + 1)
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((item for item in _few(kind) if item != "null"), "null")
    if kind == "object" or (kind is None and isinstance(schema.get("properties"), dict)):
        return _object(schema, hints, root, depth)
    if kind == "array":
        return _array(schema, name, hints, root, depth)
    if kind in ("integer", "number"):
        return _number(schema, kind, hints)
    if kind == "boolean":
        return True
    return None if kind == "null" else _weighed(_string(schema, name, hints), hints)


def _few(value: Any) -> list[Any]:
    return value[:MOST_LISTED] if isinstance(value, list) else []


def _weighed(value: Any, hints: _Hints) -> Any:
    """The value, or nothing when it is more than may still be said."""
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
    names = _few(schema["required"]) if isinstance(schema.get("required"), list) else properties
    made = {}
    for name in islice(names, MOST_LISTED):
        if isinstance(name, str) and name in properties and hints.spend(0):
            hints.bytes -= len(name)
            made[name] = _value(properties[name], name, hints, root, depth + 1)
    return made


def _resolve(reference: str, root: Any) -> Any:
    node = root
    for part in reference[: MOST_NAME * MOST_DEPTH].removeprefix("#").strip("/").split("/"):
        node = node.get(part) if isinstance(node, dict) else None
    return node


def _number(schema: Mapping[str, Any], kind: str, hints: _Hints) -> int | float:
    low, high = schema.get("minimum"), schema.get("maximum")
    fitting = (
        figure
        for figure in islice(hints.numbers, MOST_LISTED)
        if (kind == "number" or figure.is_integer())
        and (not isinstance(low, int | float) or figure >= low)
        and (not isinstance(high, int | float) or figure <= high)
    )
    figure = next(fitting, float(low) if isinstance(low, int | float) else 1.0)
    return int(figure) if figure.is_integer() and abs(figure) < 1 << 53 else figure


def _string(schema: Mapping[str, Any], name: str, hints: _Hints) -> str:
    lower = name.lower()
    if schema.get("format") == "uri" or "url" in lower:
        return hints.urls[0] if hints.urls else "https://example.com"
    if any(word in lower for word in ("path", "file", "dir")):
        return str(hints.files[0]) if hints.files else hints.quoted[0] if hints.quoted else "README.md"
    if hints.quoted:
        return str(hints.quoted[0])
    if said := hints.said_of(lower):
        return said
    if hints.place:
        return hints.place
    longest = schema.get("maxLength")
    text = hints.words or name[:400] or "text"
    return text[: min(longest, 400) if type(longest) is int and longest > 0 else 400]


# -- text ----------------------------------------------------------------------------------------------------

_SENTENCES = (
    "A stoa is a covered walk, open on one side, where people met to talk, trade and teach.",
    "Columns carry the roof, the back wall carries notices, and the floor carries whoever comes.",
    "Greek towns put them along the edges of the market, so that there was shade in summer and shelter in the rain.",
    "What happens there is public, so what is said there can be checked by anyone who was present.",
    "In Athens, Zeno of Citium taught in the painted one, and his pupils have been called Stoics ever since.",
    "The same holds for this answer: every token of it is counted, priced and written to the ledger.",
    "The Stoa of Attalos had two floors and a row of shops behind its columns; it was a gift of the king of Pergamon.",
    "It was built again in the nineteen-fifties from what had been found of it, and holds a museum today.",
    "Nothing was asked of any other server; the model that speaks lives inside the one you started.",
    "A column is not one stone but several drums, dressed on the ground and set one upon the other.",
    "The flutes were cut last, when the whole shaft stood, so that their edges ran true from foot to neck.",
    "Between two columns there was room for a bench, a money changer's table, or an argument.",
    "This model is deterministic, which makes it a poor poet and a good witness in a test.",
    "Laws and accounts were cut in stone and set up where people passed, for the same reason that this server shows its own.",
    "An account that only its keeper can read proves nothing; one on the wall is proved by every reader.",
    "The longest stoas ran past a hundred metres, and a walk to the end and back was a measured pause.",
    "Doric columns stood outside, where they took knocks, and the slimmer Ionic ones inside, where they took up less room.",
    "Give the server a provider's key, and the models you know stand behind the same address.",
    "Philosophers walked there because walking kept them awake, and merchants because their customers did.",
    "A roof without walls costs little, keeps the weather off, and leaves the way in open on all of one side.",
    "That is a fair description of an open protocol, too.",
    "Builders planned the distance between columns first; the rest of the building followed from it.",
    "Until a key is set, this model streams, calls the tools you name, and reports what it used.",
    "When the day ended the stalls were cleared, and the building was as empty, and as useful, as before.",
)


def _essay(prompt: str, results: list[str], done: list[str]) -> str:
    start = _opening(prompt, results, done)
    wanted = _length(prompt)
    words = start.split(" ")
    seed = int(hashlib.sha256(prompt.encode()).hexdigest()[:8], 16)
    index = 0
    while len(words) < wanted:
        words += _SENTENCES[(seed + index) % len(_SENTENCES)].split(" ")
        index += 1
        if index % 5 == 0 and len(words) < wanted:
            words[-1] += "\n\n"
    return " ".join(words).replace("\n\n ", "\n\n")


def _opening(prompt: str, results: list[str], done: list[str]) -> str:
    if results:
        shown = " ".join(_gist(results[-1][:READS]).split())[:400]
        return f"{done[-1][:MOST_NAME] if done else 'The tool'} answered: {shown or '(nothing)'}."
    asked = " ".join(prompt.split())
    if found := re.search(
        r"\b(?:say|reply with|answer with|repeat)(?: only)?:?\s+[\"“'`]([^\"“”'`]+)[\"”'`]", asked, re.I
    ):
        return str(found[1])
    if not asked:
        return "This is stoa/demo. Ask me something."
    return f"This is stoa/demo, answering “{asked[:160]}{'…' if len(asked) > 160 else ''}”."


def _gist(result: str) -> str:
    """A tool's result as it is, or the texts in it when it is JSON that carries some."""
    found = re.findall(r'"text":\s*"((?:[^"\\]|\\.)*)"(?=[,}\s])', result)
    told = [text for text in found if len(text) > 2]
    try:
        return str(orjson.loads(f'"{told[-1]}"')) if told else result
    except orjson.JSONDecodeError:
        return result


def _length(prompt: str) -> int:
    """How many words the prompt asks for."""
    if re.search(r"\b(?:say|reply with|answer with|repeat)(?: only)?:?\s+[\"“'`]", prompt, re.I):
        return 0
    if found := re.search(r"\b(\d{1,5})[- ](word|sentence|paragraph|page)", prompt):
        per = {"word": 1, "sentence": 16, "paragraph": 70, "page": 400}[found[2]]
        return min(int(found[1]) * per, MOST_WORDS)
    for word, words in (("page", 400), ("essay", 400), ("paragraph", 70), ("sentence", 16)):
        if re.search(rf"\b(?:a|an|one) (?:\w+ )?{word}\b", prompt):
            return words
    return DEFAULT_WORDS if len(prompt.split()) > 5 else 24
