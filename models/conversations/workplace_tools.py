"""The tools that a model has for the files of a workspace: what they are called, and what each does in a workplace."""

import difflib
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import orjson

from models.assistants.tool_requests import ToolFailed
from models.assistants.toolbox import Toolbox
from models.conversations.conversation_engine import EnginePlan, EngineTool
from models.conversations.conversation_preamble import cut
from models.conversations.engine_session import EngineSession
from models.runners import CommandResult, Workplace
from models.turns.engine import TurnHandle

MAX_READ = 32_000
"""Characters of a file, of a list or of a search that the model gets at once."""
MAX_NAMES, MAX_MATCHES = 500, 200
MAX_OUTPUT = 12_000
"""Characters of a command's output that the model gets: its beginning and its end."""
COMMAND_SECONDS, MAX_COMMAND_SECONDS = 120.0, 600.0
FAILED_COMMAND = "The command failed"
"""How the result of a command begins that failed."""
RUN_COMMAND = "run_command"
CHANGING = frozenset({"write_file", "edit_file", "delete_file", RUN_COMMAND})
"""Tools after which the files may differ."""
_OUTCOME = re.compile(rf"(?:The command ended|{FAILED_COMMAND}) (.{{1,60}}?) after [\d.]+ s\.")
ASK = "ask_user"
"""The tool that the person answers."""

Json = dict[str, Any]


def _text(description: str) -> Json:
    return {"type": "string", "description": description}


def _function(name: str, description: str, required: str = "", **properties: Json) -> Json:
    parameters = {"type": "object", "properties": properties, "required": required.split()}
    return {
        "type": "function",
        "function": {"name": name, "description": description, "parameters": parameters},
    }


_PATH = _text("Path of the file from the root of the project, such as src/app.py")
DEFINITIONS: Mapping[str, Json] = {
    "list_files": _function(
        "list_files",
        "List the names in a folder; those of folders end with /.",
        folder=_text("Path of the folder; empty for the root"),
    ),
    "read_file": _function(
        "read_file",
        "Read a text file, or some lines of it.",
        "path",
        path=_PATH,
        first_line={"type": "integer", "description": "From 1"},
        last_line={"type": "integer", "description": "Inclusive"},
    ),
    "write_file": _function(
        "write_file",
        "Write a whole file, new or in the place of the old one. Use edit_file to change a part.",
        "path content",
        path=_PATH,
        content=_text("The whole text of the file"),
    ),
    "edit_file": _function(
        "edit_file",
        "Replace a text that stands in the file exactly once, character for character.",
        "path old_text new_text",
        path=_PATH,
        old_text=_text("The text as it stands there, with enough lines around it to be unique"),
        new_text=_text("What stands there afterwards"),
        all={"type": "boolean", "description": "Replace every occurrence"},
    ),
    "delete_file": _function("delete_file", "Delete a file, or a folder with all in it.", "path", path=_PATH),
    "search": _function(
        "search",
        "Find the lines that contain a text, whatever the case.",
        "words",
        words=_text("The text as it stands in the line"),
        folder=_text("Only below this folder"),
    ),
    "run_command": _function(
        "run_command",
        "Run a shell command in the root of the project.",
        "command",
        command=_text("The command line"),
        seconds={"type": "integer", "description": f"Limit, at most {MAX_COMMAND_SECONDS:g}; by default 120"},
    ),
    ASK: _function(
        ASK,
        "Ask the person and wait for the answer. Only for what you cannot find out or decide yourself.",
        "question",
        question=_text("One clear question"),
        options={"type": "array", "items": {"type": "string"}, "description": "Answers to choose from"},
    ),
}


class WorkplaceToolbox(Toolbox):
    """The tools of one turn. `open_session` gives the session with the opened workplace, when the first tool is called."""

    def __init__(
        self, handle: TurnHandle, plan: EnginePlan, level: str, open_session: Callable[[], EngineSession]
    ) -> None:
        super().__init__(handle.account_id, {}, {}, handle.gateway.settings)
        self._open_session = open_session
        self._more: dict[str, EngineTool] = {}
        for name, definition in DEFINITIONS.items():
            if (plan.tools is not None and name not in plan.tools) or (
                name == "run_command" and level == "virtual"
            ):
                continue
            if name == ASK:
                self._definitions[name] = dict(definition)
            else:
                self._offer(name, dict(definition))
        for tool in plan.more_tools:
            name = tool.definition["function"]["name"]
            self._more[name] = tool
            self._offer(name, dict(tool.definition))

    def pay_with(self, handle: TurnHandle, org_id: str | None) -> None:
        """It has no searches that cost something."""

    def call(self, name: str, arguments: str | Mapping[str, Any], context: Any = None) -> str:
        """See `Toolbox`. Raises ToolFailed, DomainError."""
        if not self.is_server_tool(name):
            raise ToolFailed(f"There is no tool '{name[:70]}'. There are: {', '.join(self._definitions)}.")
        sent = self._arguments(name, arguments)
        session = self._open_session()
        if (tool := self._more.get(name)) is not None:
            return tool.run(session, sent)
        return _RUN[name](session.workplace, sent)


def list_files(place: Workplace, sent: Json) -> str:
    """Names in a folder."""
    names = place.list(_optional(sent, "folder"), limit=MAX_NAMES + 1)
    shown = "\n".join(names[:MAX_NAMES]) or "(empty)"
    return cut(shown, MAX_READ) + ("\n[more names follow]" if len(names) > MAX_NAMES else "")


def read_file(place: Workplace, sent: Json) -> str:
    """The text of a file, or of some lines. Raises ToolFailed for what is no text."""
    path = _needed(sent, "path")
    text = _decoded(path, place.read(path))
    first, last = _line(sent, "first_line"), _line(sent, "last_line")
    if first is None and last is None:
        return cut(text, MAX_READ) if text else "(the file is empty)"
    lines = text.splitlines(keepends=True)
    if (first or 1) > len(lines):
        raise ToolFailed(f"{path} has {len(lines):,} lines.")
    return cut("".join(lines[(first or 1) - 1 : last]), MAX_READ)


def write_file(place: Workplace, sent: Json) -> str:
    """Write a whole file."""
    path, content = _needed(sent, "path"), _string(sent, "content")
    place.write(path, content.encode("utf-8", "replace"))
    return f"Wrote {path}: {len(content.splitlines()):,} lines."


def edit_file(place: Workplace, sent: Json) -> str:
    """Replace a text exactly. Raises ToolFailed, which says why it did not match."""
    path, old, new = _needed(sent, "path"), _string(sent, "old_text"), _string(sent, "new_text")
    text = _decoded(path, place.read(path))
    if not old:
        raise ToolFailed("'old_text' is empty. Use write_file to write a whole file.")
    if old == new:
        raise ToolFailed("'old_text' and 'new_text' are the same: nothing would change.")
    count = text.count(old)
    if not count:
        raise ToolFailed(f"'old_text' does not stand in {path}. {_why_not(text, old)}")
    if count > 1 and sent.get("all") is not True:
        raise ToolFailed(
            f"'old_text' stands in {path} {count:,} times. Add lines around it, or set 'all' to true."
        )
    place.write(path, text.replace(old, new).encode("utf-8", "replace"))
    return f"Replaced {'it' if count == 1 else f'{count:,} occurrences'} in {path}."


def delete_file(place: Workplace, sent: Json) -> str:
    """Delete a file or folder."""
    path = _needed(sent, "path")
    place.delete(path)
    return f"Deleted {path}."


def search(place: Workplace, sent: Json) -> str:
    """Lines with the words."""
    found = place.search(_needed(sent, "words"), folder=_optional(sent, "folder"), limit=MAX_MATCHES)
    if not found:
        return "Nothing found."
    listed = "\n".join(f"{each.path}:{each.line}: {each.text[:300]}" for each in found)
    return cut(listed, MAX_READ) + ("\n[there may be more]" if found.cut else "")


def run_command(place: Workplace, sent: Json) -> str:
    """Run a command; a result that failed begins with `FAILED_COMMAND`. Raises NoProcesses."""
    return command_text(place.run(_needed(sent, "command"), seconds=command_seconds(sent)))


def command_of(call: Mapping[str, Any]) -> Mapping[str, Any]:
    """The arguments of a tool call; none if they are no JSON object."""
    with suppress(orjson.JSONDecodeError):
        sent = orjson.loads(call["function"]["arguments"] or "{}")
        if isinstance(sent, dict):
            return sent
    return {}


def command_outcome(result: str) -> str:
    """How the command of a result ended, in a few words; empty for a result of another kind."""
    found = _OUTCOME.match(result)
    return found[1].removeprefix("with ") if found else ""


def command_seconds(sent: Mapping[str, Any]) -> float:
    """The limit of a command."""
    seconds = sent.get("seconds")
    return min(max(float(seconds), 1.0), MAX_COMMAND_SECONDS) if type(seconds) is int else COMMAND_SECONDS


def command_text(result: CommandResult) -> str:
    """How a command ended, and its output, cut in its middle."""
    output = result.output
    if len(output) > MAX_OUTPUT:
        half = MAX_OUTPUT // 2
        output = f"{output[:half]}\n[cut: {len(output) - MAX_OUTPUT:,} characters]\n{output[-half:]}"
    if result.cut:
        output += "\n[the rest of the output was not kept]"
    how = {
        "exit": f"with exit code {result.exit_code}",
        "timeout": "at its limit of time",
        "memory": "at its limit of memory",
        "output": "at its limit of output",
        "disk": "at its limit of disk space",
        "stopped": "because it was stopped",
        "lost": "because its runner is gone",
    }[result.ended]
    begun = "The command ended" if result.succeeded else FAILED_COMMAND
    return f"{begun} {how} after {result.seconds:.1f} s.\n{output or '(no output)'}"


def _why_not(text: str, old: str) -> str:
    """What may be the reason that a text does not stand in another."""
    if old.strip() and old.strip() in text:
        return "It does without the white space around it."
    if " ".join(old.split()) in " ".join(text.split()):
        return "It does with other white space: copy it from read_file as it is."
    if old.casefold() in text.casefold():
        return "It does in other letter case."
    first = next((line.strip() for line in old.splitlines() if line.strip()), "")[:200]
    lines = list(dict.fromkeys(line.strip() for line in text.splitlines()[:2_000] if line.strip()))
    if near := difflib.get_close_matches(first, [line[:200] for line in lines[:1_000]], 1, 0.7):
        return f"The nearest line is: {near[0]}"
    return "Read the file again."


def _decoded(path: str, data: bytes) -> str:
    if b"\0" in data[:8_192]:
        raise ToolFailed(f"{path} is no text: it has {len(data):,} bytes.")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise ToolFailed(f"{path} is no text in UTF-8.") from None


def _needed(sent: Json, name: str) -> str:
    text = _string(sent, name)
    if not text.strip():
        raise ToolFailed(f"'{name}' is empty. Call the tool again with it.")
    return text


def _optional(sent: Json, name: str) -> str:
    return _string(sent, name) if sent.get(name) is not None else ""


def _string(sent: Json, name: str) -> str:
    text = sent.get(name)
    if not isinstance(text, str):
        raise ToolFailed(f"'{name}' must be a text.")
    return text


def _line(sent: Json, name: str) -> int | None:
    number = sent.get(name)
    if number is None:
        return None
    if type(number) is not int or number < 1:
        raise ToolFailed(f"'{name}' must be a number from 1.")
    return number


_RUN: Mapping[str, Callable[[Workplace, Json], str]] = {
    "list_files": list_files,
    "read_file": read_file,
    "write_file": write_file,
    "edit_file": edit_file,
    "delete_file": delete_file,
    "search": search,
    "run_command": run_command,
}
