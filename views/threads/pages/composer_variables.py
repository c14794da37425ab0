"""Variables of the assistant that answers, as fields of the composer: what they show, and what was entered."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from flask import request

from models.assistants import placeholders, readable_assistant
from models.core.errors import Forbidden, NotFound
from models.threads import Thread
from models.threads.thread_reading import last_variables
from views.web.org_guards import signed_in, viewed_account

PREFIX = "variable."
"""How the names of the fields begin."""
PROBLEM = "variables."
"""How the names of their problems begin."""
WORDS = {"true": "Yes", "false": "No"}


@dataclass(frozen=True)
class VariableField:
    """A field: `choices` are (value, text), empty for one to type in. `value` is what was entered, else what the last turn had, else the default."""

    name: str
    type: str
    value: str
    default: str
    required: bool
    help: str
    choices: list[tuple[str, str]]
    error: str | None

    @property
    def missing(self) -> bool:
        """Whether nothing can be sent without it."""
        return self.required and not self.value


def variable_fields(
    thread: Thread | None,
    assistant_id: str,
    entered: Mapping[str, str] | None = None,
    errors: Mapping[str, str] | None = None,
) -> list[VariableField]:
    """The fields for an assistant; none if it has no variables, or is not there. `entered` is the form that could not be sent."""
    definitions = _definitions(assistant_id)
    if not definitions:
        return []
    last = last_variables(thread, assistant_id) if thread is not None else {}
    sent = entered if entered is not None and _has_fields(entered) else {}
    return [
        _field(
            name,
            each,
            sent.get(PREFIX + name, shown_value(last.get(name, each["default"]))),
            (errors or {}).get(PROBLEM + name),
        )
        for name, each in definitions.items()
    ]


def entered_variables(thread: Thread | None, assistant_id: str | None) -> dict[str, Any]:
    """The values of the form, without those that are the default; in a form without such fields, as the ones beside messages, those of the thread's last
    turn."""
    definitions = _definitions(assistant_id) if assistant_id else {}
    if not definitions or assistant_id is None:
        return {}
    if not _has_fields(request.form):
        last = last_variables(thread, assistant_id) if thread is not None else {}
        return {name: value for name, value in last.items() if name in definitions}
    texts = {name: _text(request.form.get(PREFIX + name, "")) for name in definitions}
    return {
        name: text
        for name, text in texts.items()
        if text and text != shown_value(definitions[name]["default"])
    }


def shown_value(value: Any) -> str:
    """A value as a field shows it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


def _field(name: str, definition: Mapping[str, Any], value: str, error: str | None) -> VariableField:
    kind, default = definition["type"], shown_value(definition["default"])
    choices = {
        "boolean": list(WORDS.items()),
        "enum": [(each, each) for each in definition.get("values") or ()],
    }
    found = choices.get(kind, [])
    if found and not default:
        found = [("", "Choose" if definition["required"] else "None"), *found]
    return VariableField(
        name=name,
        type=kind,
        value=_text(value),
        default=default,
        required=bool(definition["required"]) and not default,
        help=definition["description"] or "",
        choices=found,
        error=error,
    )


def _definitions(assistant_id: str) -> Mapping[str, Mapping[str, Any]]:
    """The variables of the current version by name, in the order of the instructions; none for an assistant that the viewer may not see."""
    if not assistant_id:
        return {}
    try:
        saved = readable_assistant(signed_in().id, viewed_account(), assistant_id)
    except (NotFound, Forbidden):
        return {}
    found, used = saved.version.variables, placeholders(saved.version.instructions)
    return {name: found[name] for name in dict.fromkeys([*used, *found]) if name in found}


def _has_fields(names: Iterable[str]) -> bool:
    return any(name.startswith(PREFIX) for name in names)


def _text(text: str) -> str:
    return text.replace("\0", "").replace("\r\n", "\n").strip()
