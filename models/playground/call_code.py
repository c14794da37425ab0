"""A call of the playground as curl, Python and TypeScript: the code of the guide to clients, with the call's own arguments."""

import json
import pprint
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from models.gateway.client_guide import code_examples

_ARGUMENTS = {
    "curl": re.compile(r"-d '.*'", re.DOTALL),
    "Python": re.compile(r"create\(\n(?: .*\n)*\)"),
    "TypeScript": re.compile(r"create\(\{\n(?: .*\n)*\}\)"),
}


class CallCode(NamedTuple):
    """Code in one language; `title` says what it needs."""

    name: str
    title: str
    text: str


def code_of(address: str, body: Mapping[str, Any]) -> list[CallCode]:
    """The code that makes the call. `address`: this server's."""
    arguments = {"curl": _curl(body), "Python": _python(body), "TypeScript": _typescript(body)}
    examples = code_examples(address, "model")
    return [
        CallCode(name, block.title, _replaced(name, block.text, arguments[name])) for name, block in examples
    ]


def _replaced(name: str, code: str, arguments: str) -> str:
    before, after = _ARGUMENTS[name].split(code, maxsplit=1)
    return f"{before}{arguments}{after}"


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def _curl(body: Mapping[str, Any]) -> str:
    quoted = _json(body).replace("'", "'\\''")
    return f"-d '{quoted}'"


def _python(body: Mapping[str, Any]) -> str:
    lines = [f"    {name}={_indented(_literal(value))}," for name, value in body.items()]
    return "\n".join(["create(", *lines, ")"])


def _literal(value: Any) -> str:
    """Python in double quotes, as the code around it; a string that has quotes itself stays as Python writes it."""
    text = pprint.pformat(value, width=88, sort_dicts=False)
    return text if any(mark in text for mark in '"\\') else text.replace("'", '"')


def _typescript(body: Mapping[str, Any]) -> str:
    lines = [f"  {name}: {_indented(_json(value), 2)}," for name, value in body.items()]
    return "\n".join(["create({", *lines, "})"])


def _indented(text: str, by: int = 4) -> str:
    return text.replace("\n", "\n" + " " * by)
