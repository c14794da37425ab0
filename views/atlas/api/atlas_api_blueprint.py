"""The blueprint of the JSON API of maps of projects, and what its routes share."""

from flask import Blueprint

from views.projects.api.projects_api_blueprint import PROJECT_ID
from views.web.operation import Answers, query

bp = Blueprint("atlas_api", __name__, url_prefix="/v1")

TAG = "Atlas"
READS = "600/minute"
"""How often a person may ask: each reads thousands of rows."""
INDEXING = "30/minute;600/day"
PROJECT = [PROJECT_ID]
CONCEPT = query("concept_id", "A concept of the map, such as `module:src/api` or `code:src/api/app.py`")
NOT_THERE: Answers = {
    403: "Your role in the organisation does not allow it",
    404: "You have no such project, or its map has no such concept",
}
