"""Organisations: members and roles, invitations, teams, service accounts, repositories, features."""

from models.orgs.audit import record_org
from models.orgs.founding import delete_org, edit_org, found_org, org_deleted, org_erased, org_restored
from models.orgs.members import members_changed, seats_changed
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
from models.orgs.org_repos import matching_org, normalise, owner_and_repo
from models.orgs.roles import CAN, can, require
from models.orgs.teams import OrgTeam, OrgTeamMember, ServiceAccount

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
    "ServiceAccount",
    "administered_org_ids",
    "administered_orgs",
    "by_slug",
    "can",
    "delete_org",
    "edit_org",
    "found_org",
    "lock_org",
    "matching_org",
    "member_org",
    "members_changed",
    "membership",
    "memberships",
    "normalise",
    "org_by_id",
    "org_deleted",
    "org_erased",
    "org_restored",
    "owner_and_repo",
    "record_org",
    "require",
    "seats_changed",
]
