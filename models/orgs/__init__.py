"""Organisations: members and roles, invitations, teams, service accounts, repositories, features."""

from models.orgs.audit import record_org
from models.orgs.org import (
    ORG_ROLES,
    PEOPLE_ROLES,
    Org,
    OrgFeature,
    OrgInvite,
    OrgMember,
    OrgRepo,
    OrgRole,
    administered_org_ids,
    administered_orgs,
    by_slug,
    lock_org,
    member_org,
    membership,
    memberships,
    org_by_id,
)
from models.orgs.repositories import matching_org, normalise, owner_and_repo
from models.orgs.roles import CAN, can, require
from models.orgs.teams import OrgTeam, OrgTeamMember, OrgTeamRepo, ServiceAccount

__all__ = [
    "CAN",
    "ORG_ROLES",
    "PEOPLE_ROLES",
    "Org",
    "OrgFeature",
    "OrgInvite",
    "OrgMember",
    "OrgRepo",
    "OrgRole",
    "OrgTeam",
    "OrgTeamMember",
    "OrgTeamRepo",
    "ServiceAccount",
    "administered_org_ids",
    "administered_orgs",
    "by_slug",
    "can",
    "lock_org",
    "matching_org",
    "member_org",
    "membership",
    "memberships",
    "normalise",
    "org_by_id",
    "owner_and_repo",
    "record_org",
    "require",
]
