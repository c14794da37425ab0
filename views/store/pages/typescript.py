"""An agent definition as a TypeScript module (contract 6.1)."""

import json
import re
from collections.abc import Mapping
from typing import Any

NAME = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]*", re.ASCII)
HIDDEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")
"""Control, invisible and bidirectional characters, which are written as escapes."""

GENERATOR = re.compile(r"\s*function\s*\*")


def module_of(data: Mapping[str, Any]) -> str:
    """The complete module. Multi-line strings become template literals; invisible characters are escaped."""
    lines = [
        "import type { AgentDefinition } from './types/agent-definition'",
        "",
        "const definition: AgentDefinition = {",
    ]
    for key, value in data.items():
        lines.append(f"  {_name(key)}: {_field(key, value)},")
    return "\n".join([*lines, "}", "", "export default definition", ""])


def _field(key: str, value: Any) -> str:
    if key == "handleSteps" and isinstance(value, str) and GENERATOR.match(value):
        return HIDDEN.sub(_escape, value.strip())
    return _value(value, "  ")


def _value(value: Any, indent: str) -> str:
    deeper = f"{indent}  "
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, Mapping):
        fields = [f"{deeper}{_name(key)}: {_value(each, deeper)},\n" for key, each in value.items()]
        return "{\n" + "".join(fields) + indent + "}" if fields else "{}"
    if isinstance(value, list):
        short = all(isinstance(each, str | int | float) for each in value) and len(str(value)) < 80
        if short:
            return f"[{', '.join(_value(each, deeper) for each in value)}]"
        return "[\n" + "".join(f"{deeper}{_value(each, deeper)},\n" for each in value) + indent + "]"
    return json.dumps(value)


def _text(value: str) -> str:
    if "\n" in value:
        quoted = value.replace("\\", "\\\\").replace("`", "\\`").replace("${", "\\${")
        return "`" + HIDDEN.sub(_escape, quoted) + "`"
    return HIDDEN.sub(_escape, json.dumps(value, ensure_ascii=False))


def _name(key: str) -> str:
    return key if NAME.fullmatch(key) else _text(key)


def _escape(found: re.Match[str]) -> str:
    return f"\\u{ord(found.group()):04x}"
