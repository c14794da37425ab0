"""Publish a version of an assistant in the store, and find the assistant of an agent there."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import select

from models.accounts.users import User
from models.assistants.assistant import Assistant, AssistantVersion
from models.assistants.assistant_access import SavedAssistant, check_capability, readable_assistant
from models.assistants.assistant_fields import tool_name, wrong
from models.core.db import db
from models.core.errors import DomainError, Forbidden, Invalid
from models.core.settings import Settings
from models.ledger import Account
from models.orgs import Org, can, memberships, record_org
from models.store import publishers
from models.store.publishing import publish as store_publish
from models.store.publishing import validation
from models.store.publishing.publish import PublishRefused
from models.store.publishing.spawning import FullReference

MAX_STORE_NAME = 200
BACK_LINK = "Made from version {version} of the assistant `{id}`."
"""In the changelog of the store's version, which is public; the assistant stays private."""


class PublishedSource(NamedTuple):
    """The assistant of an agent in the store, and the organisation that owns it, if one does."""

    assistant: Assistant
    org: Org | None


class PublicationRefused(DomainError):
    """The store refuses the version: 403 for the publisher, 409 for the version or a limit, 422 for its content."""

    code = "publish_refused"


def publish_assistant(
    by: User,
    account: Account,
    id: str,
    *,
    publisher_id: str,
    agent_id: str,
    version: str | None,
    confirm_private_context: bool,
    credential: str,
    arrived: datetime,
    limits: Settings,
) -> tuple[SavedAssistant, FullReference]:
    """Publish the current version as `publisher_id/agent_id`: its instructions become the system prompt, the names of its tools the tool
    names, its variables the parameters of the input; `{{name}}` stays as text. The context is published only if that is confirmed. An organisation's assistant goes to the organisation's publishers only.
    `credential` and `arrived` as in `publish`. Flushes; locks the publisher, then the assistant.

    Raises NotFound, Forbidden, Invalid (422) with the field, and PublicationRefused; roll back then."""
    check_capability(by.id, account, "edit_assistants")
    found = readable_assistant(by.id, account, id)
    _check_publisher(by, account, publisher_id)
    raw = _definition(found.version, publisher_id, agent_id, version, confirm_private_context)
    checked = validation.check({agent_id: raw})
    if checked.problems:
        raise PublicationRefused(checked.problems[0].message, status=422)
    try:
        (reference,) = store_publish.publish(
            checked.definitions, by=by, credential=credential, arrived=arrived, limits=limits
        )
    except PublishRefused as refused:
        error = PublicationRefused(
            f"{refused.message}: {refused.details}", status=422 if refused.status == 400 else refused.status
        )
        error.retry_after = refused.retry_after
        raise error from None
    assistant = db.session.get_one(Assistant, found.assistant.id, with_for_update=True)
    assistant.published_as = str(reference)
    db.session.flush()
    if account.org_id:
        record_org(
            account.org_id, "assistant.published", assistant.id, after={"published_as": str(reference)}
        )
    return found, reference


def published_from(user_id: str, publisher_id: str, agent_id: str) -> PublishedSource | None:
    """The assistant that was last published as a version of this agent, among those that the user may see: their own and those of their
    organisations."""
    orgs = {org.id: org for org, member in memberships(user_id) if can(member, "see_assistants")}
    query = select(Assistant).where(
        Assistant.account_id.in_([user_id, *orgs]),
        Assistant.published_as.startswith(f"{publisher_id}/{agent_id}@", autoescape=True),
        Assistant.deleted_at.is_(None),
    )
    found = db.session.scalars(query.order_by(Assistant.updated_at.desc(), Assistant.id).limit(1)).first()
    return PublishedSource(found, orgs.get(found.account_id)) if found is not None else None


def _check_publisher(by: User, account: Account, publisher_id: str) -> None:
    try:
        publisher = publishers.accessible(by, publisher_id)
    except DomainError:
        raise Forbidden("You have no publisher with this id that you may publish under.") from None
    if account.org_id and publisher.org_id != account.org_id:
        raise Forbidden(
            "An organisation's assistant is published under a publisher of the organisation only."
        )


def _definition(
    content: AssistantVersion, publisher_id: str, agent_id: str, version: str | None, confirmed: bool
) -> dict[str, Any]:
    if content.model is None:
        raise wrong("model", "Choose a model for the assistant first: an agent in the store names one.")
    if content.context and not confirmed:
        problem = "The assistant has a context, which is private. Send confirm_private_context: true to publish it too, or remove it."
        raise Invalid(problem, fields={"confirm_private_context": problem}, code="private_context")
    prompt = content.instructions
    if content.context:
        prompt += f"\n\n<context>\n{content.context}\n</context>"
    raw = {
        "id": agent_id,
        "publisher": publisher_id,
        "version": version,
        "displayName": content.name[:MAX_STORE_NAME],
        "description": content.description,
        "model": content.model,
        "systemPrompt": prompt,
        "toolNames": [tool_name(each) for each in content.tools],
        "inputSchema": _input_schema(content.variables) if content.variables else None,
        "changelog": BACK_LINK.format(version=content.version, id=content.assistant_id),
    }
    return {name: value for name, value in raw.items() if value is not None}


def _input_schema(variables: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The variables as JSON Schema of the agent's input."""
    properties = {name: _property(each) for name, each in variables.items()}
    required = [name for name, each in variables.items() if each["required"] and each["default"] is None]
    params = {"type": "object", "properties": properties, **({"required": required} if required else {})}
    return {"prompt": {"type": "string"}, "params": params}


def _property(variable: Mapping[str, Any]) -> dict[str, Any]:
    kind = variable["type"]
    found = {"type": "string", "enum": variable["values"]} if kind == "enum" else {"type": kind}
    more = {"default": variable["default"], "description": variable["description"]}
    return {**found, **{key: value for key, value in more.items() if value is not None}}
