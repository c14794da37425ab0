"""The form of an assistant: what it shows of a version, what was entered, and the fields that it sends."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from flask import Response, current_app, request

from models.assistants import BUILTIN_TOOLS, SavedAssistant, placeholders, tool_registry
from models.assistants.assistant_fields import EFFORTS, MAX_BUDGET, MAX_SERVERS, checked_fields
from models.assistants.instruction_variables import MAX_VARIABLES
from models.assistants.tool_secrets import tool_secrets
from models.core.errors import Invalid
from views.assistants.pages.assistant_blueprint import form_text
from views.gateway.api.model_calls import gateway
from views.web.format import number as as_number
from views.web.htmx import render
from views.web.org_guards import signed_in, viewed_account

MAX_SUGGESTED = 400
"""Models that a page offers; others can be typed."""
TEXTS = ("name", "description", "instructions", "context", "model", "budget", "functions")
NUMBERS = ("temperature", "top_p", "max_tokens")
PARAMS = (*NUMBERS, "reasoning_effort")
"""Parameters with a field of their own; the others are JSON in `params`."""
VARIABLE = ("name", "type", "required", "default", "description", "values")
SERVER = ("name", "url", "headers", "allowed")

BLANK = {"name": "Enter a name.", "instructions": "Enter instructions."}

Row = Mapping[str, str]


@dataclass(frozen=True)
class AssistantForm:
    """The form's fields as text. `tools` are names of registered tools and of this server's, `functions` definitions in JSON; `version` is what
    the fields were read from, `more` the rows that were asked for: variables or servers."""

    values: Mapping[str, str]
    variables: list[Row] = field(default_factory=list)
    servers: list[Row] = field(default_factory=list)
    tools: list[str] = field(default_factory=list)
    version: int | None = None
    more: str = ""

    @property
    def unknown_placeholders(self) -> list[str]:
        """Names in the instructions that are no variables."""
        known = {row["name"] for row in self.variables}
        return [name for name in placeholders(self.values["instructions"]) if name not in known][:10]


def blank_form() -> AssistantForm:
    """The form of a new assistant. Query: `name` and `model` to begin with."""
    values = dict.fromkeys((*TEXTS, *PARAMS, "params"), "")
    values |= {name: request.args.get(name, "").replace("\0", "")[:255] for name in ("name", "model")}
    return AssistantForm(values)


def form_of(saved: SavedAssistant) -> AssistantForm:
    """The form filled with a version."""
    version, params = saved.version, saved.version.model_params
    functions = [each for each in version.tools if not isinstance(each, str)]
    others = {name: each for name, each in params.items() if name not in PARAMS}
    budget = saved.assistant.budget
    values = {
        "name": version.name,
        "description": version.description or "",
        "instructions": version.instructions,
        "context": version.context or "",
        "model": version.model or "",
        "budget": "" if budget is None else str(budget),
        "functions": _pretty(functions) if functions else "",
        "params": _pretty(others) if others else "",
        **{name: "" if params.get(name) is None else str(params[name]) for name in PARAMS},
    }
    return AssistantForm(
        values,
        [_variable_row(name, each) for name, each in version.variables.items()],
        [_server_row(each) for each in version.mcp_servers],
        [each for each in version.tools if isinstance(each, str)],
        version.version,
    )


def entered_form() -> AssistantForm:
    """What was entered. `more` asks for empty rows, and saves nothing."""
    more = request.form.get("more", "")
    number = request.form.get("version", "")
    return AssistantForm(
        {name: form_text(name) for name in (*TEXTS, *PARAMS, "params")},
        _with_blanks("variable", VARIABLE, MAX_VARIABLES, 2 if more == "variables" else 0),
        _with_blanks("server", SERVER, MAX_SERVERS, 1 if more == "servers" else 0),
        [each.replace("\0", "")[:64] for each in request.form.getlist("tool")],
        int(number) if re.fullmatch(r"\d{1,9}", number, re.ASCII) else None,
        more,
    )


def parsed_form(form: AssistantForm) -> tuple[dict[str, Any], int | None]:
    """The fields of the assistant, checked one by one, and its budget. Raises Invalid (422) with the message of each field that is wrong."""
    values = form.values
    problems: dict[str, str] = {}
    raw: dict[str, Any] = {
        "name": values["name"],
        "description": values["description"],
        "instructions": values["instructions"],
        "context": values["context"],
        "model": values["model"].strip(),
        "variables": {row["name"].strip(): _variable(row) for row in form.variables if row["name"].strip()},
        "mcp_servers": [_server(row) for row in form.servers if row["name"].strip() or row["url"].strip()],
    }
    for name, read in (("model_params", _params), ("tools", _tools)):
        try:
            raw[name] = read(form)
        except Invalid as error:
            problems |= error.fields or {}
    problems |= {name: text for name, text in BLANK.items() if not values[name].strip()}
    for name, value in raw.items():
        if name in problems:
            continue
        try:
            checked_fields({name: value})
        except Invalid as error:
            problems |= placed_problems(error.fields or {name: error.message})
    budget = values["budget"].strip().replace(",", "")
    if budget and not (re.fullmatch(r"\d{1,10}", budget, re.ASCII) and int(budget) <= MAX_BUDGET):
        problems["budget"] = f"Enter a whole number of credits up to {as_number(MAX_BUDGET)}, or nothing."
    if problems:
        raise Invalid("The assistant is not saved.", fields=problems)
    return raw, int(budget) if budget else None


def form_choices(form: AssistantForm) -> dict[str, Any]:
    """What the form offers: models, tools as (name, description, whether it is this account's own), and names of secrets."""
    user_id, account = signed_in().id, viewed_account()
    registered = [(each.name, each.description, True) for each in tool_registry.tools(user_id, account)]
    offered = [*((name, _about(name), False) for name in BUILTIN_TOOLS), *registered]
    names = {name for name, *_ in offered}
    gone = [
        (name, "It is not registered any more. Leave it out.", True)
        for name in form.tools
        if name not in names
    ]
    return {
        "models": [each.requested for each in gateway(current_app).routes.models()][:MAX_SUGGESTED],
        "offered_tools": [*offered, *gone],
        "secrets": [each.name for each in tool_secrets(user_id, account)],
        "efforts": [("", "Default"), *((each, each.capitalize()) for each in EFFORTS)],
    }


def form_fragment(*, status: int, form: AssistantForm, **context: Any) -> Response:
    """The form alone. When it asked for rows, the page stays where it is."""
    response = render("assistants/_form.html", status=status, form=form, **context)
    if form.more:
        response.headers["HX-Reswap"] = "outerHTML show:none"
    return response


def placed_problems(problems: Mapping[str, str]) -> dict[str, str]:
    """Problems of parameters beside their own fields, of tools beside the functions."""
    found = {}
    for name, text in problems.items():
        param, colon, rest = text.partition(": ")
        if name == "model_params":
            own = colon and param in PARAMS
            found[param if own else "params"] = f"Enter {rest}" if own else text
        else:
            found["functions" if name == "tools" else name] = text
    return found


# -- parts ---------------------------------------------------------------------------------------------------


def _about(name: str) -> str:
    return str(BUILTIN_TOOLS[name]["function"]["description"])


def _rows(kind: str, fields: Iterable[str], most: int) -> list[Row]:
    """The rows that are not empty, at most one more than may be saved, so that the check says so."""
    rows: list[Row] = []
    for number in range(most + 1):
        row = {name: form_text(f"{kind}-{number}-{name}") for name in fields}
        if row["name"].strip() or row.get("url", "").strip():
            rows.append(row)
    return rows


def _with_blanks(kind: str, fields: tuple[str, ...], most: int, blanks: int) -> list[Row]:
    rows = _rows(kind, fields, most)
    return [*rows, *(_blank(fields) for _ in range(min(blanks, most - len(rows))))]


def _blank(fields: Iterable[str]) -> Row:
    return {**dict.fromkeys(fields, ""), **({"type": "string"} if "type" in fields else {})}


def _variable_row(name: str, definition: Mapping[str, Any]) -> Row:
    default = definition.get("default")
    text = "" if default is None else json.dumps(default) if isinstance(default, bool) else str(default)
    return {
        "name": name,
        "type": definition["type"],
        "required": "1" if definition.get("required") else "",
        "default": text,
        "description": definition.get("description") or "",
        "values": "\n".join(definition.get("values") or ()),
    }


def _variable(row: Row) -> dict[str, Any]:
    found: dict[str, Any] = {
        "type": row["type"],
        "required": row["required"] == "1",
        "description": row["description"].strip() or None,
        "default": _default(row["type"], row["default"].strip()),
    }
    if row["type"] == "enum":
        found["values"] = [line.strip() for line in row["values"].split("\n") if line.strip()]
    return found


def _default(kind: str, text: str) -> Any:
    if kind == "boolean" and text in ("true", "false"):
        return text == "true"
    return _number(text) if kind == "number" else text or None


def _number(text: str) -> Any:
    """A number, or the text if it is none, which the check refuses."""
    if re.fullmatch(r"-?\d{1,15}", text, re.ASCII):
        return int(text)
    return float(text) if re.fullmatch(r"-?\d{0,15}\.\d{1,15}", text, re.ASCII) else text or None


def _server_row(server: Mapping[str, Any]) -> Row:
    allowed = server.get("allowed_tools")
    return {
        "name": server["name"],
        "url": server["url"],
        "headers": header_lines(server.get("headers") or {}),
        "allowed": "" if allowed is None else " ".join(allowed),
    }


def _server(row: Row) -> dict[str, Any]:
    return {
        "name": row["name"].strip(),
        "url": row["url"].strip(),
        "headers": read_headers(row["headers"]),
        "allowed_tools": row["allowed"].replace(",", " ").split() or None,
    }


def header_lines(headers: Mapping[str, str]) -> str:
    """Names of secrets by header, one a line: `Authorization: crm`."""
    return "\n".join(f"{header}: {secret}" for header, secret in headers.items())


def read_headers(text: str) -> dict[str, str]:
    """The reverse of `header_lines`; what is wrong with them, their check says."""
    lines = [line.partition(":") for line in text.split("\n") if line.strip()]
    return {header.strip(): secret.strip() for header, _, secret in lines}


def _params(form: AssistantForm) -> dict[str, Any]:
    text = form.values["params"].strip()
    others = read_json(text, "params", 'an object, such as {"seed": 7}') if text else {}
    if not isinstance(others, dict):
        raise Invalid("", fields={"params": 'Enter a JSON object, such as {"seed": 7}.'})
    own = {name: form.values[name].strip() for name in PARAMS}
    if twice := [name for name in own if name in others]:
        raise Invalid("", fields={"params": f"'{twice[0]}' has a field of its own above. Remove it here."})
    numbers = {name: _number(own[name]) for name in NUMBERS if own[name]}
    effort = {"reasoning_effort": own["reasoning_effort"]} if own["reasoning_effort"] else {}
    return {**others, **numbers, **effort}


def _tools(form: AssistantForm) -> list[Any]:
    text = form.values["functions"].strip()
    functions = read_json(text, "functions", "a list of functions") if text else []
    if isinstance(functions, dict):
        functions = [functions]
    if not isinstance(functions, list) or any(isinstance(each, str) for each in functions):
        raise Invalid(
            "",
            fields={
                "functions": "Enter a JSON list of function definitions. Tools by name are chosen above."
            },
        )
    return [*form.tools, *functions]


def read_json(text: str, name: str, what: str) -> Any:
    """A field in JSON. Raises Invalid, which says where it ends to be JSON."""
    try:
        json.loads(text)
        return orjson.loads(text)
    except (json.JSONDecodeError, orjson.JSONDecodeError) as error:
        place = f" Line {error.lineno}, column {error.colno}: {error.msg}." if error.lineno else ""
        raise Invalid("", fields={name: f"This is not JSON for {what}.{place}"}) from None
    except (RecursionError, ValueError):
        raise Invalid("", fields={name: f"This is not JSON for {what}: it is nested too deep."}) from None


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
