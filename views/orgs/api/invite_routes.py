"""Invitations to an organisation (contract 2.8)."""

from typing import Any

from flask import jsonify
from flask.typing import ResponseReturnValue

from models.accounts import User
from models.core.db import db, now
from models.core.errors import Invalid
from models.core.strict_models import Body
from models.orgs import invite_listing, invites
from models.orgs.invite_mails import person_name
from views.orgs.api.orgs_api_blueprint import bp
from views.web.body import read
from views.web.error_bodies import door
from views.web.format import iso
from views.web.guards import limiter, require_cookie_user
from views.web.operation import Operation, ResponseModel, path
from views.web.org_guards import current_org, org_route, signed_in

ORG = path("org_id", "Id or slug of the organisation")
EMAIL = path("email", "E-mail address, URL-encoded")
TOKEN = path("token", "Token of the link in the e-mail")
