"""Removes the home folders of agents' commands whose conversation is gone."""

import sys
from collections.abc import Sequence

from sqlalchemy import select

from models.conversations.conversation import ProjectConversation
from models.core.db import db
from models.core.settings import Settings
from models.projects import Project
from models.runners.agent_home import KeptHome, sweep_homes
from models.runners.process_workplace import sandbox_home

AT_ONCE = 1_000


def sweep(settings: Settings) -> int:
    """Remove what no conversation of the account has any more, and what was not used for long, on this machine; returns how many. Safe to run at any time."""
    return sweep_homes(sandbox_home(settings).base, settings, _living) if sys.platform == "linux" else 0


def _living(homes: Sequence[KeptHome]) -> set[str]:
    """The ids of the conversations among the names, of those whose project is still the account's."""
    found: set[str] = set()
    for start in range(0, len(homes), AT_ONCE):
        named = {each.name: each.account_id for each in homes[start : start + AT_ONCE]}
        query = (
            select(ProjectConversation.id, Project.account_id)
            .join(Project, Project.id == ProjectConversation.project_id)
            .where(ProjectConversation.id.in_(named))
        )
        found |= {id for id, account_id in db.session.execute(query) if named[id] == account_id}
    return found
