"""What is needed to write a message: the models and assistants to choose from, and what was entered."""

from collections.abc import Mapping
from typing import Any

from flask import current_app, request

from models.gateway.model_suggestion import suggested_model
from models.threads import Thread
from models.threads.thread_reading import usable_assistants
from views.gateway.api.model_calls import gateway
from views.threads.pages.composer_variables import variable_fields
from views.web.org_guards import viewed_account

MAX_SUGGESTED = 400
"""Models that a page offers; others can be typed."""


def composer_context(
    thread: Thread | None,
    *,
    values: Mapping[str, str] | None = None,
    errors: Mapping[str, str] | None = None,
    last_model: str | None = None,
) -> dict[str, Any]:
    """`models`, `assistants` as (id, name), `variables` of the one that answers, and what the fields show: what was entered, else what was used last."""
    names = [each.requested for each in gateway(current_app).routes.models()]
    entered = values if values is not None else request.args
    chosen = {
        "content": entered.get("content" if values is not None else "text", ""),
        "model": entered.get("model", ""),
        "assistant": entered.get("assistant", ""),
    }
    if not chosen["assistant"] and thread is not None:
        chosen["assistant"] = thread.assistant_id or ""
    if not chosen["model"]:
        chosen["model"] = (thread and (last_model or thread.model)) or suggested_model(
            names, viewed_account().id
        )
    chosen = {name: text.replace("\0", "") for name, text in chosen.items()}
    return {
        "models": names[:MAX_SUGGESTED],
        "assistants": usable_assistants(viewed_account().id),
        "variables": variable_fields(thread, chosen["assistant"], values, errors),
        "values": chosen,
        "errors": errors or {},
    }
