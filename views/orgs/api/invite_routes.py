"""Invitations to an organisation (contract 2.8)."""

from views.web.operation import path

ORG = path("org_id", "Id or slug of the organisation")
EMAIL = path("email", "E-mail address, URL-encoded")
TOKEN = path("token", "Token of the link in the e-mail")
