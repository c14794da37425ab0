"""Import assistants and prompts that were exported from OpenAI: what can travel becomes an assistant, what cannot is named.

Accepts the objects of `GET /v1/assistants` and of saved prompts: one, a list, or a page `{"data": […]}`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from sqlalchemy import select

from models.accounts.write_limits import WriteLimitExceeded
from models.assistants.assistant import Assistant, AssistantVersion
from models.assistants.assistant_access import check_capability
from models.assistants.assistant_editing import create_assistant
from models.assistants.assistant_fields import MAX_NAME, checked_fields, function_definition, tool_name
from models.assistants.builtin_tools import BUILTIN_TOOLS
from models.assistants.instruction_variables import placeholders
from models.core.db import db
from models.core.errors import Invalid
from models.core.settings import Settings
from models.ledger import Account

MAX_ITEMS = 200
MAX_NOTES = 30
ORIGIN = "imported_from"
"""The key of the metadata with the original's id."""
PLACEHOLDER = "You are a helpful assistant."
_PARAMS = (
    "temperature",
    "top_p",
    "reasoning_effort",
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "parallel_tool_calls",
    "response_format",
)
_READ = {
    *(
        "id",
        "object",
        "created_at",
        "updated_at",
        "version",
        "is_default",
        "name",
        "description",
        "instructions",
    ),
    *("messages", "model", "tools", "tool_resources", "metadata", "variables", "reasoning", *_PARAMS),
}
_WEB_SEARCH = ("web_search", "web_search_preview", "web_search_preview_2025_03_11", "web_search_2025_08_26")


@dataclass
class ImportedAssistant:
    """The outcome of one object: `source` is its id or name, `notes` what did not travel or changed."""

    source: str
    outcome: Literal["imported", "exists", "refused"] = "refused"
    id: str | None = None
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Add what did not travel."""
        if len(self.notes) < MAX_NOTES:
            self.notes.append(text)


def import_assistants(user_id: str, account: Account, raw: Any, limits: Settings) -> list[ImportedAssistant]:
    """Create an assistant of each object, in order; refused ones do not stop the others. One that the account has imported already, by its
    id, is left alone, so that a repetition is safe. Flushes.

    Raises NotFound, Forbidden, and Invalid (422) if there is nothing to import or too much."""
    check_capability(user_id, account, "edit_assistants")
    items = _items(raw)
    existing = _existing(account)
    return [_imported(user_id, account, each, limits, existing) for each in items]


def imported_id(account: Account, id: str) -> str:
    """The id of the account's newest assistant that was imported under this id, if it is not one of ours; else the id itself."""
    if id.startswith("agnt_") or "\0" in id:
        return id
    query = (
        select(Assistant.id)
        .join(AssistantVersion, AssistantVersion.assistant_id == Assistant.id)
        .where(AssistantVersion.version == Assistant.version, AssistantVersion.metadata_[ORIGIN].astext == id)
        .where(Assistant.account_id == account.id, Assistant.deleted_at.is_(None))
        .order_by(Assistant.created_at.desc(), Assistant.id)
        .limit(1)
    )
    return db.session.scalar(query) or id


def _items(raw: Any) -> list[Any]:
    if isinstance(raw, dict) and isinstance(raw.get("data"), list):
        raw = raw["data"]
    items = raw if isinstance(raw, list) else [raw]
    if not items or not any(isinstance(each, dict) for each in items):
        raise Invalid('Send exported assistants or prompts: an object, a list of them, or {"data": […]}.')
    if len(items) > MAX_ITEMS:
        raise Invalid(f"Import at most {MAX_ITEMS} at once.")
    return items


def _existing(account: Account) -> dict[str, str]:
    origin = AssistantVersion.metadata_[ORIGIN].astext.label("origin")
    query = (
        select(origin, Assistant.id)
        .join(Assistant, Assistant.id == AssistantVersion.assistant_id)
        .where(AssistantVersion.version == Assistant.version, origin.is_not(None))
        .where(Assistant.account_id == account.id, Assistant.deleted_at.is_(None))
    )
    return {row.origin: row.id for row in db.session.execute(query)}


def _imported(
    user_id: str, account: Account, raw: Any, limits: Settings, existing: dict[str, str]
) -> ImportedAssistant:
    if not isinstance(raw, dict):
        result = ImportedAssistant("?")
        result.note("It is no object.")
        return result
    origin = raw["id"][:200] if isinstance(raw.get("id"), str) else ""
    name = raw["name"] if isinstance(raw.get("name"), str) else ""
    result = ImportedAssistant((origin or name or "?")[:200])
    if origin and origin in existing:
        result.outcome, result.id = "exists", existing[origin]
        return result
    try:
        fields = _fields(raw, origin, result)
        with db.session.begin_nested():
            made = create_assistant(user_id, account, fields, limits)
    except (Invalid, WriteLimitExceeded) as refused:
        result.note(f"Not imported: {refused.message}")
        return result
    result.outcome, result.id = "imported", made.assistant.id
    if origin:
        existing[origin] = made.assistant.id
    return result


# -- fields --------------------------------------------------------------------------------------------------


def _fields(raw: Mapping[str, Any], origin: str, result: ImportedAssistant) -> dict[str, Any]:
    instructions = _instructions(raw, result)
    variables = _variables(raw.get("variables"), instructions, result)
    fields = {
        "name": _name(raw, origin, result),
        "instructions": instructions,
        "description": _taken("description", raw.get("description"), result),
        "model": _taken("model", raw.get("model"), result),
        "tools": _tools(raw.get("tools"), result),
        "model_params": _params(raw, result),
        "variables": variables,
        "metadata": _metadata(raw.get("metadata"), origin, result),
    }
    _note_resources(raw.get("tool_resources"), result)
    for other in sorted(raw.keys() - _READ):
        if raw[other] not in (None, [], {}, ""):
            result.note(f"'{other[:70]}' has no place here.")
    return {name: value for name, value in fields.items() if value is not None}


def _taken(name: str, value: Any, result: ImportedAssistant) -> Any:
    """The value if it fits its field, else None, with a note."""
    if value is None:
        return None
    try:
        return checked_fields({name: value})[name]
    except Invalid as invalid:
        result.note(f"'{name}' did not travel: {invalid.message}")
        return None


def _name(raw: Mapping[str, Any], origin: str, result: ImportedAssistant) -> str:
    name = raw.get("name")
    plain = (
        "".join(each if each.isprintable() else " " for each in name).strip() if isinstance(name, str) else ""
    )
    if not plain:
        result.note("It had no name.")
        return f"Imported {origin or 'assistant'}"[:MAX_NAME]
    if plain[:MAX_NAME] != name:
        result.note("The name was shortened, or freed of control characters.")
    return plain[:MAX_NAME].strip()


def _instructions(raw: Mapping[str, Any], result: ImportedAssistant) -> str:
    texts = [raw["instructions"]] if isinstance(raw.get("instructions"), str) else []
    examples = []
    messages = raw.get("messages")
    for message in messages if isinstance(messages, list) else ():
        role, text = (
            (message.get("role"), _message_text(message)) if isinstance(message, dict) else (None, "")
        )
        if role in ("system", "developer"):
            texts.append(text)
        elif text:
            examples.append(f"{role}: {text}")
    if examples:
        result.note("Messages of the roles user and assistant became part of the instructions.")
        texts.append("<messages>\n" + "\n\n".join(examples) + "\n</messages>")
    found = "\n\n".join(text for text in texts if text.strip())
    if not found:
        result.note(f"It had no instructions; they are '{PLACEHOLDER}' now.")
    return found or PLACEHOLDER


def _message_text(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    parts = content if isinstance(content, list) else [content]
    texts = [each.get("text") if isinstance(each, dict) else each for each in parts]
    return "\n".join(each for each in texts if isinstance(each, str))


def _variables(raw: Any, instructions: str, result: ImportedAssistant) -> dict[str, Any]:
    """Declared ones, and those that the instructions name."""
    declared = (
        dict.fromkeys(raw) if isinstance(raw, list) and all(isinstance(each, str) for each in raw) else raw
    )
    found: dict[str, Any] = {}
    for name, value in declared.items() if isinstance(declared, dict) else ():
        definition = (
            value if isinstance(value, dict) and "type" in value else {"type": "string", "default": value}
        )
        if definition.get("default") is None:
            definition = {**definition, "required": True}
        found |= _taken("variables", {name: definition}, result) or {}
    if raw is not None:  # a prompt: in the instructions of an assistant, braces are text
        for name in placeholders(instructions):
            found.setdefault(name, {"type": "string", "required": True})
    return found


def _tools(raw: Any, result: ImportedAssistant) -> list[Any]:
    found: dict[str, Any] = {}
    for each in raw if isinstance(raw, list) else ():
        kind = each.get("type") if isinstance(each, dict) else each
        name = "web_search" if kind in _WEB_SEARCH else kind
        if isinstance(name, str) and name in BUILTIN_TOOLS:
            found[name] = name
            continue
        if kind != "function":
            result.note(f"The tool '{str(kind)[:70]}' is not available here.")
            continue
        try:
            definition = function_definition(each)
            found.setdefault(tool_name(definition), definition)
        except Invalid as invalid:
            result.note(f"A function did not travel: {invalid.message}")
    tools: list[Any] = _taken("tools", list(found.values()), result) or []
    return tools


def _params(raw: Mapping[str, Any], result: ImportedAssistant) -> dict[str, Any]:
    sent = {name: raw[name] for name in _PARAMS if raw.get(name) not in (None, "auto")}
    if "max_output_tokens" in sent:
        sent["max_tokens"] = sent.pop("max_output_tokens")
    reasoning = raw.get("reasoning")
    if isinstance(reasoning, dict) and reasoning.get("effort") is not None:
        sent["reasoning_effort"] = reasoning["effort"]
    found: dict[str, Any] = {}
    for name, value in sent.items():
        found |= _taken("model_params", {name: value}, result) or {}
    return found


def _metadata(raw: Any, origin: str, result: ImportedAssistant) -> dict[str, Any]:
    kept = _taken("metadata", raw, result) or {}
    if origin and len(kept) < 16:
        kept[ORIGIN] = origin
    elif origin:
        result.note(
            "Its id is not kept, because the metadata is full: importing it again makes another assistant."
        )
    return dict(kept)


def _note_resources(raw: Any, result: ImportedAssistant) -> None:
    for tool, resources in raw.items() if isinstance(raw, dict) else ():
        ids = (
            [id for each in resources.values() if isinstance(each, list) for id in each]
            if isinstance(resources, dict)
            else []
        )
        if ids:
            named = ", ".join(str(id)[:60] for id in ids[:5]) + (", …" if len(ids) > 5 else "")
            result.note(
                f"The files of {tool[:40]} did not travel: {named}. Upload the documents to the assistant."
            )
