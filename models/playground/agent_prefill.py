"""Settings of the playground from an agent of the store: its model and its prompts. Its tools run in clients, and are left out."""

import json
from typing import Any, NamedTuple

from models.core.errors import NotFound
from models.store.catalogue.lookup import LATEST, version_of

MAX_NAME = 300


class AgentPrefill(NamedTuple):
    """An agent's settings; `left_out` are the names of its tools."""

    name: str
    model: str
    system: str
    left_out: list[str]


def prefill_of(name: str) -> AgentPrefill:
    """The settings of `publisher/agent` or `publisher/agent@version`. Raises NotFound."""
    full, _, version = name.strip().partition("@")
    publisher, _, agent = full.partition("/")
    if not publisher or not agent or len(name) > MAX_NAME or not name.isprintable():
        raise NotFound("Enter publisher/agent, or publisher/agent@1.0.0.")
    found = version_of(publisher, agent, version or LATEST)
    data: Any = json.loads(found.data)
    prompts = [data.get(key) for key in ("systemPrompt", "instructionsPrompt")]
    tools = data.get("toolNames")
    model = data.get("model")
    return AgentPrefill(
        f"{found.publisher_id}/{found.id}@{found.version}",
        model if isinstance(model, str) else "",
        "\n\n".join(each for each in prompts if isinstance(each, str) and each),
        [str(each) for each in tools] if isinstance(tools, list) else [],
    )
