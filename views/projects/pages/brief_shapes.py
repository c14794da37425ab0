"""What the brief of a project holds, by what the project is for: the fields of its form, and the keys that clients read (contract 3.2)."""

from collections.abc import Mapping
from typing import Any, NamedTuple

LINES_HELP = "One a line."


class BriefField(NamedTuple):
    """A field of the form, the key of the brief that it fills, and its label. `lines`: the key holds a list, one a line. `needed`: a brief
    is not complete without it."""

    name: str
    key: str
    label: str
    help: str | None = None
    lines: bool = False
    needed: bool = False

    @property
    def rows(self) -> int:
        """Lines of text that the field shows."""
        return 3 if not self.lines else 4


_PROBLEM = BriefField(
    "problem", "problem", "Problem", "What is hard today, and for whom. Agents read this before they work."
)
_ANY = (
    _PROBLEM,
    BriefField("audience", "audience", "Audience"),
    BriefField("features", "mvp_features", "First features", LINES_HELP, lines=True),
)
_SHAPES: Mapping[str, tuple[BriefField, ...]] = {
    "startup": (
        _PROBLEM._replace(needed=True),
        BriefField("audience", "target_users", "Target users", LINES_HELP, lines=True, needed=True),
        BriefField("features", "mvp_features", "First features", LINES_HELP, lines=True, needed=True),
    ),
    "personal_tool": (
        _PROBLEM._replace(needed=True),
        BriefField("audience", "current_workaround", "How you manage today"),
        BriefField("features", "must_have", "What it must have", LINES_HELP, lines=True, needed=True),
    ),
}


def fields_of(intent: str | None) -> tuple[BriefField, ...]:
    """The fields of a brief of this intent."""
    return _SHAPES.get(intent or "", _ANY)


def brief_of(
    intent: str, texts: Mapping[str, str], former: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The brief as clients read it, with what clients wrote into the former one beside the fields of both intents."""
    found = dict(former or {})
    for each in fields_of(found.get("intent")):
        found.pop(each.key, None)
    found["intent"] = intent
    for each in fields_of(intent):
        found.pop(each.key, None)
        if value := _value(each, texts.get(each.name, "")):
            found[each.key] = value
    return found


def texts_of(intent: str | None, brief: Mapping[str, Any] | None) -> dict[str, str]:
    """What the fields show of a brief; what a client wrote in another shape is left out."""
    found = {}
    for each in fields_of(intent):
        value = (brief or {}).get(each.key)
        if each.lines and isinstance(value, list):
            found[each.name] = "\n".join(one for one in value if isinstance(one, str))
        elif not each.lines and isinstance(value, str):
            found[each.name] = value
    return found


def label_of(intent: str | None, key: str) -> str:
    """The name of a key of a brief, for people."""
    known = next((each.label for each in fields_of(intent) if each.key == key), None)
    return known or key.replace("_", " ").capitalize()[:60]


def _value(field: BriefField, text: str) -> str | list[str]:
    return [line.strip() for line in text.split("\n") if line.strip()] if field.lines else text
