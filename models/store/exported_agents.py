"""What an export of a user's data holds of the store: publishers, agents, their versions, and stars."""

from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import Select, select

from models.core.personal_export import add_csv, add_json_lines, batches
from models.store.catalogue.stars import AgentStar
from models.store.tables import Agent, AgentConfig, AgentVersion, Publisher

FEW = 50


def _publishers(user_id: str) -> Iterator[Mapping[str, Any]]:
    return batches(select(Publisher.__table__).where(Publisher.user_id == user_id), Publisher.id)


def _agents(user_id: str) -> Iterator[Mapping[str, Any]]:
    query: Select[*tuple[Any, ...]] = (
        select(
            Agent.publisher_id.label("publisher"),
            Agent.id,
            Agent.name,
            Agent.description,
            Agent.tags,
            Agent.model,
            Agent.latest_version,
            Agent.readme,
            Agent.deprecated_at,
            Agent.deprecated_reason,
            Agent.runs,
            Agent.stars,
            Agent.created_at,
        )
        .join(Publisher, Publisher.id == Agent.publisher_id)
        .where(Publisher.user_id == user_id)
    )
    return batches(query, Agent.publisher_id, Agent.id, size=FEW)


def _versions(user_id: str) -> Iterator[Mapping[str, Any]]:
    query: Select[*tuple[Any, ...]] = (
        select(
            AgentConfig.publisher_id.label("publisher"),
            AgentConfig.id.label("agent"),
            AgentConfig.version,
            AgentConfig.data.label("definition"),
            AgentConfig.created_at,
            AgentVersion.yanked_at.label("withdrawn_at"),
            AgentVersion.yanked_reason.label("withdrawn_reason"),
            AgentVersion.downloads,
        )
        .join(Publisher, Publisher.id == AgentConfig.publisher_id)
        .outerjoin(
            AgentVersion,
            (AgentVersion.publisher_id == AgentConfig.publisher_id)
            & (AgentVersion.agent_id == AgentConfig.id)
            & (AgentVersion.version == AgentConfig.version),
        )
        .where(Publisher.user_id == user_id)
    )
    return batches(query, AgentConfig.publisher_id, AgentConfig.id, AgentConfig.version, size=FEW)


def _stars(user_id: str) -> Iterator[Mapping[str, Any]]:
    query: Select[*tuple[Any, ...]] = select(
        AgentStar.publisher_id.label("publisher"), AgentStar.agent_id.label("agent"), AgentStar.created_at
    ).where(AgentStar.user_id == user_id)
    return batches(query, AgentStar.publisher_id, AgentStar.agent_id)


add_csv(
    "publishers.csv",
    "Your own publishers.",
    {
        "id": "id",
        "name": "name",
        "email": "address for contact",
        "verified": "whether an operator verified it",
        "bio": "description",
        "avatar_url": "picture",
        "created_at": "when",
        "updated_at": "last change",
    },
    _publishers,
)
add_json_lines(
    "agents.jsonl",
    "Agents of your publishers.",
    {
        "publisher": "id of the publisher",
        "id": "id",
        "name": "name",
        "description": "description",
        "tags": "tags",
        "model": "model",
        "latest_version": "latest version",
        "readme": "readme",
        "deprecated_at": "when it was deprecated",
        "deprecated_reason": "why",
        "runs": "runs by everybody",
        "stars": "stars",
        "created_at": "when",
    },
    _agents,
)
add_json_lines(
    "agent_versions.jsonl",
    "Versions of these agents.",
    {
        "publisher": "id of the publisher",
        "agent": "id of the agent",
        "version": "version",
        "definition": "definition as published",
        "created_at": "when",
        "withdrawn_at": "when it was withdrawn",
        "withdrawn_reason": "why",
        "downloads": "downloads",
    },
    _versions,
)
add_csv(
    "stars.csv",
    "Agents you gave a star.",
    {"publisher": "id of the publisher", "agent": "id of the agent", "created_at": "when"},
    _stars,
)
