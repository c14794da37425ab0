"""The blueprint of the JSON routes of organisations."""

from flask import Blueprint

bp = Blueprint("orgs_api", __name__)
