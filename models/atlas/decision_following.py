"""Lets the map of a project follow its decisions, which are parts of it."""

from typing import Any

from models.atlas.atlas_indexing import request_index
from models.atlas.atlas_tables import AtlasIndex
from models.core.db import db
from models.insights.decision_signal import decisions_moved


@decisions_moved.connect
def _follow_decisions(project_id: str, **_: Any) -> None:
    """One that is not indexed has no map that could be wrong."""
    if db.session.get(AtlasIndex, project_id) is not None:
        request_index(project_id)
