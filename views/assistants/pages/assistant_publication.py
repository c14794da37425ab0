"""The form that publishes the current version of an assistant in the store."""

from collections.abc import Iterable, Mapping
from typing import Any

from flask import request, url_for
from flask.typing import ResponseReturnValue

from models.assistants import BUILTIN_TOOLS, AssistantVersion, SavedAssistant, check_capability
from models.assistants.assistant_fields import tool_name
from models.assistants.store_publishing import PublicationRefused, publish_assistant, published_from
from models.core.db import db, now
from models.core.errors import DomainError, Forbidden, Invalid
from models.store import publishers
from models.store.publishers import ManagedPublisher
from views.assistants.pages.assistant_blueprint import (
    assistant_action,
    assistant_page,
    bp,
    form_text,
    problems_of,
    viewed_assistant,
)
from views.store.pages.agent import agent_address
from views.web.guards import audit, settings
from views.web.htmx import render, see_other, toast
from views.web.org_guards import signed_in, viewed_account

bp.add_app_template_global(agent_address, "published_address")

MAX_NAMED = 8
"""Names of a list that the page shows."""


@bp.app_template_global()
def assistant_address(publisher_id: str, agent_id: str) -> str | None:
    """URL of the assistant from which an agent of the store was published, for a signed-in viewer who may see it."""
    found = published_from(signed_in().id, publisher_id, agent_id)
    if found is None:
        return None
    query: dict[str, Any] = {"slug": found.org.slug} if found.org else {}
    return url_for("assistants.editor", assistant_id=found.assistant.id, **query)


@assistant_page("/<assistant_id>/publication")
def publication(assistant_id: str) -> ResponseReturnValue:
    """Show the form, and where the assistant was published last. Raises NotFound, Forbidden."""
    saved = _editable(assistant_id)
    publisher, _, rest = (saved.assistant.published_as or "").partition("/")
    agent_id = rest.partition("@")[0] or _id_of(saved.version.name)
    return _form(saved, {"publisher": publisher, "agent": agent_id, "version": ""}, {})


@assistant_action("/<assistant_id>/publication", "20/minute;200/day")
def publish(assistant_id: str) -> ResponseReturnValue:
    """Publish the current version. 422 with what was entered if it is refused. Raises NotFound, Forbidden."""
    arrived, saved = now(), _editable(assistant_id)
    entered = {name: form_text(name).strip() for name in ("publisher", "agent", "version")}
    try:
        _, reference = publish_assistant(
            signed_in(),
            viewed_account(),
            saved.assistant.id,
            publisher_id=entered["publisher"],
            agent_id=entered["agent"],
            version=entered["version"] or None,
            confirm_private_context=request.form.get("confirm") == "1",
            credential="web",
            arrived=arrived,
            limits=settings(),
        )
    except (Invalid, PublicationRefused, Forbidden) as error:
        db.session.rollback()
        return _form(viewed_assistant(assistant_id), entered, _placed(error), status=422)
    audit("agent.published", str(reference), user=signed_in(), after={"assistant": saved.assistant.id})
    db.session.commit()
    toast(f"Published {reference}")
    return see_other(agent_address(str(reference)))


def _editable(assistant_id: str) -> SavedAssistant:
    saved = viewed_assistant(assistant_id)
    check_capability(signed_in().id, viewed_account(), "edit_assistants")
    return saved


def _form(
    saved: SavedAssistant, values: Mapping[str, str], errors: Mapping[str, str], status: int = 200
) -> ResponseReturnValue:
    published = saved.assistant.published_as
    return render(
        "assistants/publication.html",
        partial="assistants/_publication.html",
        status=status,
        saved=saved,
        values=values,
        errors=errors,
        differences=_differences(saved.version),
        publisher_choices=[(each.publisher.id, each.publisher.name) for each in _usable()],
        published_href=agent_address(published) if published else None,
    )


def _differences(version: AssistantVersion) -> list[tuple[str, str, str]]:
    """What of the version does not travel into the store, or becomes something else there."""
    functions = [each for each in version.tools if not isinstance(each, str)]
    own = [each for each in version.tools if isinstance(each, str) and each not in BUILTIN_TOOLS]
    found = [
        (
            "MCP servers",
            _named(each["name"] for each in version.mcp_servers),
            "The agent has none of their tools.",
        ),
        (
            "Functions",
            _named(map(tool_name, functions)),
            "Only their names are published; whoever runs the agent defines them.",
        ),
        (
            "Registered tools",
            _named(own),
            "Only their names are published; their addresses and secrets stay here.",
        ),
        ("Parameters", _named(version.model_params), "The agent runs with those of its caller."),
        (
            "Variables",
            _named(version.variables),
            "They become parameters of the agent’s input; {{name}} stays in the prompt as text.",
        ),
    ]
    return [each for each in found if each[1]]


def _named(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - MAX_NAMED} more" if len(listed) > MAX_NAMED else ""
    return ", ".join(listed[:MAX_NAMED]) + more


def _usable() -> list[ManagedPublisher]:
    """The viewer's publishers under which an assistant of the viewed account may be published."""
    org_id = viewed_account().org_id
    found = publishers.managed(signed_in())
    return [
        each for each in found if not each.taken_down and (org_id is None or each.publisher.org_id == org_id)
    ]


def _placed(error: DomainError) -> dict[str, str]:
    """The problem beside its field."""
    if isinstance(error, Forbidden):
        return {"publisher": error.message}
    text = error.message.lower()
    if isinstance(error, PublicationRefused):
        name = "version" if "version" in text else "agent" if "agent id" in text or '"id"' in text else "form"
        return {name: error.message}
    names = {"confirm_private_context": "confirm", "model": "form"}
    texts = {"confirm": "The context is private. Confirm that it becomes public, or remove it first."}
    return {
        names.get(name, name): texts.get(names.get(name, ""), text)
        for name, text in problems_of(error, "form").items()
    }


def _id_of(name: str) -> str:
    plain = "".join(sign if sign.isascii() and sign.isalnum() else "-" for sign in name.lower())
    return "-".join(filter(None, plain.split("-")))[:60]
