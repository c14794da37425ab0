"""A project with files, a conversation about it, and turns that are run to their end."""

from collections.abc import Mapping
from typing import Any

from models.accounts.key_format import present
from models.conversations import FoundConversation, own_conversation, say, start_conversation
from models.core.db import db
from models.ledger import Account
from models.projects import Project, ProjectCaller, Workspace
from models.projects.project_editing import create_project
from models.projects.snapshots.blob_packs import blob_bytes
from models.projects.snapshots.manifest_store import manifest_row, tree_entries
from models.projects.workspaces.workspace_editing import create_workspace
from models.turns import Turn, TurnEngine
from tests.factories import Person
from tests.projects.project_rows import caller_of, pushed

FILES = {
    "README.md": "# Pier\n\nTwelve columns.\n",
    "src/pier.py": "COLUMNS = 12\n",
    "docs/roof.md": "A roof.\n",
}


class Talk:
    """Somebody's conversation about the workspace `main` of a project with `FILES`."""

    def __init__(
        self, person: Person, engine: TurnEngine, files: Mapping[str, str] = FILES, **options: Any
    ) -> None:
        self.person, self.engine = person, engine
        caller, account = self.caller(), Account(user_id=person.id)
        project = create_project(caller, account, "Pier")
        self.project_id = project.id
        self.workspace_id = create_workspace(caller, project.id, "main").id
        if files:
            pushed(caller, project.id, self.workspace_id, dict(files), "Begin")
        self.id = start_conversation(caller, self.workspace_id, **options).conversation.id
        db.session.commit()

    def caller(self) -> ProjectCaller:
        """Who speaks."""
        return caller_of(self.person.id, Account(user_id=self.person.id))

    def found(self) -> FoundConversation:
        """The conversation as it is now."""
        return own_conversation(self.caller(), self.id)

    @property
    def workspace(self) -> Workspace:
        """The workspace as it is now."""
        return db.session.get_one(Workspace, self.workspace_id, populate_existing=True)

    def begin(self, prompt: str, **options: Any) -> Turn:
        """Say something; the turn may run meanwhile."""
        turn = say(
            self.caller(),
            self.found(),
            prompt,
            key=present(self.person.token),
            owner=self.engine.owner,
            **options,
        )
        db.session.commit()
        if turn.state == "running":
            self.engine.run(turn.id)
        return turn

    def said(self, prompt: str, **options: Any) -> Turn:
        """Say something, and wait until no turn runs."""
        return self.ended(self.begin(prompt, **options))

    def ended(self, turn: Turn) -> Turn:
        """The turn when none runs any more."""
        assert self.engine.idle(60)
        db.session.rollback()
        db.session.expire_all()
        return db.session.get_one(Turn, turn.id)

    def files(self, manifest_hash: str | None = None) -> dict[str, str]:
        """The files of the workspace, or of a manifest."""
        project = db.session.get_one(Project, self.project_id)
        hash = manifest_hash or self.workspace.current_manifest_hash
        row = manifest_row(project.account_id, hash or "")
        assert row is not None
        assert row.tree_hash is not None
        return {
            each.path: (blob_bytes(project.account_id, each.hash or "") or b"").decode()
            for each in tree_entries(project.account_id, row.tree_hash)
        }

    def events(self, turn: Turn) -> list[tuple[str, Mapping[str, Any]]]:
        """The events of a turn."""
        from sqlalchemy import select

        from models.turns import TurnEvent

        query = select(TurnEvent).where(TurnEvent.turn_id == turn.id).order_by(TurnEvent.seq)
        return [(each.type, each.data) for each in db.session.scalars(query)]
