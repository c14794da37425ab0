"""Organisations: members and roles, invitations, teams, service accounts, repositories, features."""

from models.orgs import deleted_people, exported_memberships, provisioning
from models.orgs.alert_settings import OrgAlertSettings
from models.orgs.alerts import ALERT_KINDS, OrgAlert, OrgAlertDismissal, raise_alert, resolve_alerts
from models.orgs.audit import record_org
from models.orgs.client_settings import OrgClientSettings
from models.orgs.directory import ScimGroup, ScimGroupMember, ScimToken, ScimUser
from models.orgs.domain_joining import OrgJoinRequest
from models.orgs.domains import OrgDomain, OrgDomainJoining
from models.orgs.founding import delete_org, edit_org, found_org, org_deleted, org_erased, org_restored
from models.orgs.invite_events import OrgInviteEvent
from models.orgs.members import members_changed, seats_changed
from models.orgs.offboarding import OrgRemoval
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
from models.orgs.single_sign_on import OrgSso, OrgSsoGroup, OrgSsoSession, SsoRequired, check_session
from models.orgs.sso_keys import personal_keys
from models.orgs.teams import OrgTeam, OrgTeamMember, OrgTeamRepo, ServiceAccount
from models.orgs.webhooks import OrgWebhook, WebhookDelivery

__all__ = [
    "ALERT_KINDS",
    "CAN",
    "ORG_ROLES",
    "PEOPLE_ROLES",
    "Org",
    "OrgAlert",
    "OrgAlertDismissal",
    "OrgAlertSettings",
    "OrgClientSettings",
    "OrgDomain",
    "OrgDomainJoining",
    "OrgFeature",
    "OrgInvite",
    "OrgInviteEvent",
    "OrgJoinRequest",
    "OrgMember",
    "OrgRemoval",
    "OrgRepo",
    "OrgRole",
    "OrgSso",
    "OrgSsoGroup",
    "OrgSsoSession",
    "OrgTeam",
    "OrgTeamMember",
    "OrgTeamRepo",
    "OrgWebhook",
    "ScimGroup",
    "ScimGroupMember",
    "ScimToken",
    "ScimUser",
    "ServiceAccount",
    "SsoRequired",
    "WebhookDelivery",
    "administered_org_ids",
    "administered_orgs",
    "by_slug",
    "can",
    "check_session",
    "delete_org",
    "deleted_people",
    "edit_org",
    "exported_memberships",
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
    "personal_keys",
    "provisioning",
    "raise_alert",
    "record_org",
    "require",
    "resolve_alerts",
    "seats_changed",
]
