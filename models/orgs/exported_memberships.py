"""What an export of a user's data holds of organisations: memberships and teams."""

from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import Select, select

from models.core.personal_export import add_csv, batches
from models.orgs.org import Org, OrgMember
from models.orgs.teams import OrgTeam, OrgTeamMember


def _memberships(user_id: str) -> Iterator[Mapping[str, Any]]:
    query: Select[*tuple[Any, ...]] = (
        select(Org.id, Org.slug, Org.name, OrgMember.role, OrgMember.joined_at)
        .join(Org, Org.id == OrgMember.org_id)
        .where(OrgMember.user_id == user_id)
    )
    return batches(query, OrgMember.org_id)


def _teams(user_id: str) -> Iterator[Mapping[str, Any]]:
    query: Select[*tuple[Any, ...]] = (
        select(OrgTeamMember.org_id.label("organisation"), OrgTeam.name, OrgTeamMember.joined_at)
        .join(OrgTeam, OrgTeam.id == OrgTeamMember.team_id)
        .join(
            OrgMember,
            (OrgMember.org_id == OrgTeamMember.org_id) & (OrgMember.user_id == OrgTeamMember.user_id),
        )
        .where(OrgMember.user_id == user_id)
    )
    return batches(query, OrgTeamMember.team_id)


add_csv(
    "memberships.csv",
    "Organisations you are a member of.",
    {
        "id": "id of the organisation",
        "slug": "its name in addresses",
        "name": "its name",
        "role": "your role",
        "joined_at": "when you joined",
    },
    _memberships,
)
add_csv(
    "teams.csv",
    "Teams of organisations you are in.",
    {"organisation": "id of the organisation", "name": "name of the team", "joined_at": "when you joined"},
    _teams,
)
