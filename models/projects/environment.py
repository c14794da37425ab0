"""Environment variables of a project, and values of its workspaces that override them: every value is stored sealed; secret ones are shown
by their last characters only (contract 3.3)."""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import (
    CheckConstraint,
    ColumnElement,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    and_,
    delete,
    func,
    not_,
    or_,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Mapped, mapped_column

from models.core.db import NOW, Base, db, extension, now
from models.core.errors import Conflict, Invalid
from models.core.sealing import SealBroken, open_sealed, seal
from models.projects.project import Project
from models.projects.project_access import ProjectCaller, own_project, workspace_not_found
from models.projects.project_ids import fits, new_id
from models.projects.workspaces.workspace import Workspace

PURPOSE = "env"
MAX_VARIABLES = 500
MAX_KEY, MAX_VALUE = 200, 64 << 10
_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class EnvironmentVariable(Base):
    """A variable of a project, or with `workspace_id` the value that it has in this workspace instead. `sealed` is its value, bound to
    project, workspace and key."""

    __tablename__ = "project_env_var"
    __table_args__ = (
        CheckConstraint("(key ~ '^[A-Za-z_][A-Za-z0-9_]*$'::text)", name="key_plain"),
        ForeignKeyConstraint(
            ["project_id", "workspace_id"],
            ["workspace.project_id", "workspace.id"],
            name="project_env_var_workspace_fk",
            ondelete="CASCADE",
        ),
        Index(
            "idx_project_env_var_key",
            "project_id",
            "key",
            unique=True,
            postgresql_where=text("(workspace_id IS NULL)"),
        ),
        Index(
            "idx_project_env_var_workspace_key",
            "project_id",
            "workspace_id",
            "key",
            unique=True,
            postgresql_where=text("(workspace_id IS NOT NULL)"),
        ),
    )

    id: Mapped[str] = mapped_column(primary_key=True, default=new_id)
    project_id: Mapped[str] = mapped_column(ForeignKey("project.id", ondelete="CASCADE"))
    workspace_id: Mapped[str | None]
    key: Mapped[str]
    sealed: Mapped[str]
    is_secret: Mapped[bool]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    updated_at: Mapped[datetime] = mapped_column(server_default=NOW)


class NewVariable(NamedTuple):
    """What a client sets. `is_secret` None keeps what it was, false for a new one."""

    key: str
    value: str
    is_secret: bool | None = None


class OpenedVariable(NamedTuple):
    """A variable and its value, None if it was sealed with another STOA_SECRET_KEY. Never log it."""

    row: EnvironmentVariable
    value: str | None

    @property
    def shown(self) -> str:
        """The value as lists show it: of a secret at most its last four characters."""
        if self.value is None:
            return "****"
        if not self.row.is_secret:
            return self.value
        return f"****{self.value[-4:]}" if len(self.value) > 4 else "****"


def variables_of(
    caller: ProjectCaller, project_id: str, workspace_id: str | None = None
) -> list[OpenedVariable]:
    """The variables of a project by key, to show their `shown` values; with a workspace those that it has, its own values instead of the
    project's. Raises NotFound, Forbidden."""
    project = own_project(caller, project_id)
    return _opened(project, _workspace(project, workspace_id))


def all_variables(caller: ProjectCaller, project_id: str) -> list[tuple[OpenedVariable, Workspace | None]]:
    """The variables of a project and the values of its workspaces, by key. Raises NotFound, Forbidden."""
    project = own_project(caller, project_id)
    query = (
        select(EnvironmentVariable, Workspace)
        .outerjoin(Workspace, Workspace.id == EnvironmentVariable.workspace_id)
        .where(EnvironmentVariable.project_id == project.id, Workspace.deleted_at.is_(None))
        .order_by(EnvironmentVariable.key, Workspace.name.nulls_first())
    )
    return [(OpenedVariable(row, _value(row)), workspace) for row, workspace in db.session.execute(query)]


def plain_variables(
    caller: ProjectCaller, project_id: str, workspace_id: str | None = None
) -> list[OpenedVariable]:
    """As `variables_of`, for whoever may read the values of secrets. Raises NotFound, Forbidden, Conflict (409) for a value that cannot
    be read."""
    project = own_project(caller, project_id, "manage_projects")
    found = _opened(project, _workspace(project, workspace_id))
    if lost := next((each.row.key for each in found if each.value is None), None):
        raise Conflict(
            f"The value of '{lost}' cannot be read: the secret key of this server changed. Set it again.",
            code="variable_unreadable",
        )
    return found


def opened_variables(project: Project, workspace: Workspace) -> list[OpenedVariable]:
    """The variables of a project as a workspace has them, for what the server runs there. Never log their values."""
    return _opened(project, workspace)


def set_variable(
    caller: ProjectCaller, project_id: str, new: NewVariable, workspace_id: str | None = None
) -> None:
    """Add or change a variable, or the value that a workspace has instead. Locks the project, flushes. Raises Invalid (422), Conflict
    (409) for too many, NotFound, Forbidden."""
    project = own_project(caller, project_id, "edit_projects", lock=True)
    workspace = _workspace(project, workspace_id)
    check_variable(new)
    _store(project, workspace, {new.key: new})


def set_variables(
    caller: ProjectCaller, project_id: str, variables: Sequence[NewVariable], workspace_id: str | None = None
) -> list[str]:
    """Add or change several variables, the last of each key; returns the keys that were skipped because they are no names. Raises as
    `set_variable`."""
    project = own_project(caller, project_id, "edit_projects", lock=True)
    workspace = _workspace(project, workspace_id)
    named = [each for each in variables if _KEY.fullmatch(each.key) and len(each.key) <= MAX_KEY]
    for each in named:
        check_variable(each)
    _store(project, workspace, {each.key: each for each in named})
    taken = {each.key for each in named}
    return [each.key for each in variables if each.key not in taken]


def remove_variable(
    caller: ProjectCaller, project_id: str, key: str, workspace_id: str | None = None
) -> None:
    """Remove a variable if there is one, or the value of a workspace, which has that of the project then. Raises NotFound, Forbidden."""
    project = own_project(caller, project_id, "edit_projects", lock=True)
    workspace = _workspace(project, workspace_id)
    if "\0" not in key:
        mine = delete(EnvironmentVariable).where(EnvironmentVariable.project_id == project.id)
        db.session.execute(mine.where(EnvironmentVariable.key == key, _of(workspace)))


def check_variable(new: NewVariable) -> None:
    """Raise Invalid (422) for a key that is no name, or a value that is too long or has a NUL character."""
    if not _KEY.fullmatch(new.key) or len(new.key) > MAX_KEY:
        raise Invalid("'key' must be a name of letters, digits and _, which does not begin with a digit.")
    if "\0" in new.value or len(new.value.encode(errors="replace")) > MAX_VALUE:
        raise Invalid(f"'value' must have at most {MAX_VALUE >> 10} KiB, and no NUL character.")


def _workspace(project: Project, id: str | None) -> Workspace | None:
    """The workspace of the project that is meant, None for all. Raises NotFound."""
    if id is None:
        return None
    found = db.session.get(Workspace, id) if fits(id) else None
    if found is None or found.project_id != project.id or found.deleted_at is not None:
        raise workspace_not_found()
    return found


def _of(workspace: Workspace | None) -> ColumnElement[bool]:
    if workspace is None:
        return EnvironmentVariable.workspace_id.is_(None)
    return EnvironmentVariable.workspace_id == workspace.id


def _store(project: Project, workspace: Workspace | None, variables: Mapping[str, NewVariable]) -> None:
    id = workspace.id if workspace else None
    count = select(func.count()).where(
        EnvironmentVariable.project_id == project.id,
        not_(and_(EnvironmentVariable.key.in_(variables), _of(workspace))),
    )
    if (db.session.scalar(count) or 0) + len(variables) > MAX_VARIABLES:
        raise Conflict(f"A project has at most {MAX_VARIABLES} variables. Remove some first.")
    for key, new in variables.items():
        sealed = seal(_secret_key(), PURPOSE, new.value.encode(), context=_context(project.id, id, key))
        row = {"project_id": project.id, "workspace_id": id, "key": key, "sealed": sealed}
        changes = {"sealed": sealed, "updated_at": now()}
        if new.is_secret is not None:
            changes["is_secret"] = new.is_secret
        statement = insert(EnvironmentVariable).values(id=new_id(), is_secret=bool(new.is_secret), **row)
        unique = ["project_id", "key"] if id is None else ["project_id", "workspace_id", "key"]
        where = text("workspace_id IS NULL" if id is None else "workspace_id IS NOT NULL")
        db.session.execute(
            statement.on_conflict_do_update(index_elements=unique, index_where=where, set_=changes)
        )


def _opened(project: Project, workspace: Workspace | None) -> list[OpenedVariable]:
    scopes = or_(_of(None), _of(workspace))
    query = select(EnvironmentVariable).where(EnvironmentVariable.project_id == project.id, scopes)
    # the workspace's own value of a key comes last, and stays
    ordered = query.order_by(EnvironmentVariable.key, EnvironmentVariable.workspace_id.nulls_first())
    rows = db.session.scalars(ordered.execution_options(populate_existing=True))
    return [OpenedVariable(row, _value(row)) for row in {row.key: row for row in rows}.values()]


def _value(row: EnvironmentVariable) -> str | None:
    try:
        context = _context(row.project_id, row.workspace_id, row.key)
        return open_sealed(_secret_key(), PURPOSE, row.sealed, context=context).decode()
    except SealBroken:
        return None


def _secret_key() -> str:
    key: str = extension("settings").secret_key
    return key


def _context(project_id: str, workspace_id: str | None, key: str) -> str:
    return f"{project_id} {workspace_id} {key}" if workspace_id else f"{project_id} {key}"
