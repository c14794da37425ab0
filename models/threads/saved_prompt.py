"""A saved assistant as the `prompt` of a response: its instructions, model, tools and parameters in the format of the Responses API."""

from collections.abc import Mapping
from typing import Any

from models.assistants.assistant import AssistantVersion
from models.assistants.assistant_access import SavedAssistant, runnable_assistant
from models.assistants.assistant_import import imported_id
from models.assistants.instruction_variables import render_instructions
from models.core.errors import Invalid
from models.gateway.chat_format import BadCall
from models.ledger import Account

_KEYS = ("id", "version", "variables")


def with_prompt(
    user_id: str, account: Account, body: Mapping[str, Any], prompt: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The body with what the prompt says and the request does not, and the prompt as the response names it. Raises BadCall, NotFound,
    Forbidden, AgentDeleted."""
    id, version, values = _checked(prompt)
    saved = runnable_assistant(user_id, account, imported_id(account, id), version)
    try:
        instructions = render_instructions(saved.version, values)
    except Invalid as error:
        raise BadCall(error.message, param="prompt.variables") from None
    texts = [instructions, _context(saved.version), body.get("instructions")]
    written = "\n\n".join(text for text in texts if isinstance(text, str) and text)
    made = {**_parameters(saved.version), **{key: value for key, value in body.items() if value is not None}}
    if written:
        made["instructions"] = written
    if tools := _tools(saved):
        given = body.get("tools")
        own = given if isinstance(given, list) else []
        taken = {tool.get("name") for tool in own if isinstance(tool, dict)}
        made["tools"] = [*(tool for tool in tools if tool["name"] not in taken), *own]
    return made, {"id": id, "version": str(saved.version.version), "variables": values}


def _checked(prompt: Any) -> tuple[str, int | None, dict[str, Any]]:
    if not isinstance(prompt, dict) or not isinstance(prompt.get("id"), str):
        raise BadCall("'prompt' must be an object with the 'id' of an assistant.", param="prompt")
    for key in prompt:
        if key not in _KEYS:
            raise BadCall(f"'prompt' has {', '.join(_KEYS)} only.", param=f"prompt.{key[:80]}")
    version, values = prompt.get("version"), prompt.get("variables")
    number = str(version) if type(version) in (str, int) else ""
    if version is not None and not (number.isascii() and number.isdigit() and 1 <= len(number) <= 9):
        raise BadCall("'prompt.version' must be the number of a version.", param="prompt.version")
    if values is not None and not isinstance(values, dict):
        raise BadCall("'prompt.variables' must be an object.", param="prompt.variables")
    return prompt["id"], None if version is None else int(number), dict(values or {})


def _context(version: AssistantVersion) -> str | None:
    return f"<context>\n{version.context}\n</context>" if version.context else None


def _parameters(version: AssistantVersion) -> dict[str, Any]:
    """The parameters of chat completions under their names in the Responses API."""
    params = dict(version.model_params)
    found: dict[str, Any] = {
        key: params[key] for key in ("temperature", "top_p", "parallel_tool_calls") if key in params
    }
    most = params.get("max_completion_tokens", params.get("max_tokens"))
    if most is not None:
        found["max_output_tokens"] = most
    if "reasoning_effort" in params:
        found["reasoning"] = {"effort": params["reasoning_effort"]}
    text: dict[str, Any] = {"verbosity": params["verbosity"]} if "verbosity" in params else {}
    if isinstance(wanted := params.get("response_format"), dict):
        schema = wanted.get("json_schema")
        text["format"] = {"type": wanted["type"], **(schema if isinstance(schema, dict) else {})}
    if text:
        found["text"] = text
    if version.model:
        found["model"] = version.model
    return found


def _tools(saved: SavedAssistant) -> list[dict[str, Any]]:
    """The functions of the assistant, which the client runs. Raises BadCall if it has tools that only turns of threads run."""
    tools = saved.version.tools
    names = [tool for tool in tools if isinstance(tool, str)]
    if names or saved.version.mcp_servers:
        raise BadCall(
            "This assistant has tools that the server runs, and a response runs none. Ask it with 'agent_id' on /v1/chat/completions, or "
            "in a thread.",
            param="prompt.id",
        )
    functions = [tool["function"] for tool in tools if isinstance(tool, dict)]
    return [{"type": "function", **function} for function in functions]
