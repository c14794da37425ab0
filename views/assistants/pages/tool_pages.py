"""The registered tools of an account: list, add, change, test with a call, remove."""

import json
import re
from collections.abc import Mapping
from typing import Any

from flask import url_for
from flask.typing import ResponseReturnValue

from models.assistants import BUILTIN_TOOLS, ToolFailed, check_capability, open_toolbox, tool_registry
from models.assistants.tool import METHODS, Tool
from models.assistants.tool_secrets import tool_secrets
from models.core.db import db
from models.core.errors import Conflict, Invalid
from views.assistants.pages.assistant_blueprint import (
    assistant_action,
    assistant_page,
    form_text,
    problems_of,
    viewer_may,
)
from views.assistants.pages.assistant_form import header_lines, read_headers, read_json
from views.web.htmx import render, see_other, toast
from views.web.org_guards import signed_in, viewed_account

FIELDS = ("name", "description", "url", "method", "parameters", "headers", "timeout_seconds", "retries")
PARAMETERS = '{\n  "type": "object",\n  "properties": {\n    "query": {"type": "string"}\n  },\n  "required": ["query"]\n}'
"""What the form of a new tool begins with."""
BLANK = {"method": "POST", "parameters": PARAMETERS, "timeout_seconds": "30", "retries": "0"}


@assistant_page("/tools")
def tool_list() -> ResponseReturnValue:
    """List the registered tools and those of this server. Raises Forbidden."""
    return render(
        "assistants/tools.html",
        rows=tool_registry.tools(signed_in().id, viewed_account()),
        builtin={name: each["function"]["description"] for name, each in BUILTIN_TOOLS.items()},
        may_manage=viewer_may("manage_tools"),
    )


@assistant_page("/tools/new")
def new_tool() -> ResponseReturnValue:
    """Show the form of a new tool. Raises Forbidden."""
    check_capability(signed_in().id, viewed_account(), "manage_tools")
    return _form(None, {**dict.fromkeys(FIELDS, ""), **BLANK}, {})


@assistant_action("/tools")
def add_tool() -> ResponseReturnValue:
    """Register a tool. 422 with what was entered if it cannot be. Raises Forbidden."""
    check_capability(signed_in().id, viewed_account(), "manage_tools")
    values = _entered()
    try:
        row = tool_registry.add_tool(signed_in().id, viewed_account(), _fields(values))
    except (Invalid, Conflict) as error:
        db.session.rollback()
        return _form(None, values, problems_of(error, "name"), status=422)
    db.session.commit()
    toast(f"“{row.name}” is registered. Try it with a call.")
    return see_other(url_for("assistants.tool", tool_id=row.id))


@assistant_page("/tools/<tool_id>")
def tool(tool_id: str) -> ResponseReturnValue:
    """Show a tool with its form and a call to test it. Raises NotFound, Forbidden."""
    row = _own(tool_id)
    return _form(row, _values(row), {})


@assistant_action("/tools/<tool_id>")
def change_tool(tool_id: str) -> ResponseReturnValue:
    """Change a tool. 422 with what was entered if it cannot be saved. Raises NotFound, Forbidden."""
    check_capability(signed_in().id, viewed_account(), "manage_tools")
    _own(tool_id)
    values = _entered()
    try:
        row = tool_registry.change_tool(signed_in().id, viewed_account(), tool_id, _fields(values))
    except (Invalid, Conflict) as error:
        db.session.rollback()
        return _form(_own(tool_id), values, problems_of(error, "name"), status=422)
    db.session.commit()
    toast(f"“{row.name}” is saved.")
    return see_other(url_for("assistants.tool", tool_id=tool_id))


@assistant_action("/tools/<tool_id>/calls", "30/minute;500/day")
def call_tool(tool_id: str) -> ResponseReturnValue:
    """Call a tool as a model would, and show its answer, or what went wrong (422). Raises NotFound, Forbidden."""
    check_capability(signed_in().id, viewed_account(), "manage_tools")
    row, arguments = _own(tool_id), form_text("arguments").strip()
    values, name = _values(row), row.name
    toolbox = open_toolbox(viewed_account().id, [name])
    db.session.commit()  # the request to the tool holds no connection
    try:
        answer, failed = toolbox.call(name, arguments), False
    except ToolFailed as error:
        answer, failed = error.message, True
    called = {"arguments": arguments, "answer": answer, "failed": failed}
    return render(
        "assistants/tool.html",
        partial="assistants/_tool_call.html",
        status=422 if failed else 200,
        called=called,
        **_context(_own(tool_id), values, {}),
    )


@assistant_page("/tools/<tool_id>/removal")
def ask_tool_removal(tool_id: str) -> ResponseReturnValue:
    """Ask whether to remove a tool. Raises NotFound, Forbidden."""
    check_capability(signed_in().id, viewed_account(), "manage_tools")
    return render("assistants/tool_removal.html", partial="assistants/_tool_removal.html", tool=_own(tool_id))


@assistant_action("/tools/<tool_id>/removal")
def remove_tool(tool_id: str) -> ResponseReturnValue:
    """Remove a tool. Raises NotFound, Forbidden."""
    name = _own(tool_id).name
    tool_registry.remove_tool(signed_in().id, viewed_account(), tool_id)
    db.session.commit()
    toast(f"“{name}” is removed.")
    return see_other(url_for("assistants.tool_list"))


def _own(tool_id: str) -> Tool:
    return tool_registry.tool(signed_in().id, viewed_account(), tool_id)


def _values(row: Tool) -> dict[str, str]:
    parameters = json.dumps(row.parameters, indent=2, ensure_ascii=False)
    values = {name: str(getattr(row, name)) for name in FIELDS}
    return {**values, "parameters": parameters, "headers": header_lines(row.headers)}


def _entered() -> dict[str, str]:
    return {name: form_text(name) for name in FIELDS}


def _fields(values: Mapping[str, str]) -> dict[str, Any]:
    """The fields of the tool. Raises Invalid for JSON that is none."""
    if missing := {name: text for name, text in _NEEDED.items() if not values[name].strip()}:
        raise Invalid("The tool is not saved.", fields=missing)
    return {
        **{name: values[name].strip() for name in ("name", "description", "url", "method")},
        "parameters": read_json(values["parameters"].strip() or "{}", "parameters", "a schema of parameters"),
        "headers": read_headers(values["headers"]),
        **{name: _whole(values[name].strip()) for name in ("timeout_seconds", "retries")},
    }


_NEEDED = {"name": "Enter a name, such as find_order.", "url": "Enter an address that begins with https://."}


def _whole(text: str) -> Any:
    return int(text) if re.fullmatch(r"\d{1,5}", text, re.ASCII) else text


def _form(
    row: Tool | None, values: Mapping[str, str], errors: Mapping[str, str], status: int = 200
) -> ResponseReturnValue:
    return render(
        "assistants/tool.html",
        partial="assistants/_tool_form.html",
        status=status,
        called=None,
        **_context(row, values, errors),
    )


def _context(row: Tool | None, values: Mapping[str, str], errors: Mapping[str, str]) -> dict[str, Any]:
    return {
        "tool": row,
        "values": values,
        "errors": errors,
        "methods": [(each, each) for each in METHODS],
        "secrets": tool_secrets(signed_in().id, viewed_account()),
        "may_manage": viewer_may("manage_tools"),
    }
