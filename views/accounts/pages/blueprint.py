"""The blueprint that the files of this room hang their routes on."""

from flask import Blueprint

bp = Blueprint("accounts", __name__)
