"""Organisations: members and roles, invitations, teams, service accounts, repositories, features."""

from models.orgs.alert_settings import OrgAlertSettings
from models.orgs.alerts import ALERT_KINDS, OrgAlert, OrgAlertDismissal, raise_alert, resolve_alerts
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
    member_org,
    membership,
    memberships,
    org_by_id,
)
from models.orgs.roles import CAN, can, require
from models.orgs.teams import OrgTeam, OrgTeamMember, ServiceAccount
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
    "OrgFeature",
    "OrgInvite",
    "OrgMember",
    "OrgRepo",
    "OrgRole",
    "OrgTeam",
    "OrgTeamMember",
    "OrgWebhook",
    "ServiceAccount",
    "WebhookDelivery",
    "administered_org_ids",
    "administered_orgs",
    "by_slug",
    "can",
    "member_org",
    "membership",
    "memberships",
    "org_by_id",
    "raise_alert",
    "record_org",
    "require",
    "resolve_alerts",
]
