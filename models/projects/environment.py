"""Environment variables of a project: every value is stored sealed; secret ones are shown by their last characters only (contract 3.3)."""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import CheckConstraint, ForeignKey, Index, delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Mapped, mapped_column

from models.core.db import NOW, Base, db, extension, now
from models.core.errors import Conflict, Invalid
from models.core.sealing import SealBroken, open_sealed, seal
from models.projects.project import Project
from models.projects.project_access import ProjectCaller, own_project
from models.projects.project_ids import new_id

PURPOSE = "env"
MAX_VARIABLES = 500
MAX_KEY, MAX_VALUE = 200, 64 << 10
_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class EnvironmentVariable(Base):
    """A variable of a project. `sealed` is its value, bound to project and key."""

    __tablename__ = "project_env_var"
    __table_args__ = (
        CheckConstraint("(key ~ '^[A-Za-z_][A-Za-z0-9_]*$'::text)", name="key_plain"),
        Index("idx_project_env_var_key", "project_id", "key", unique=True),
    )

    id: Mapped[str] = mapped_column(primary_key=True, default=new_id)
    project_id: Mapped[str] = mapped_column(ForeignKey("project.id", ondelete="CASCADE"))
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


def variables_of(caller: ProjectCaller, project_id: str) -> list[OpenedVariable]:
    """The variables of a project by key, to show their `shown` values. Raises NotFound, Forbidden."""
    return _opened(own_project(caller, project_id))


def plain_variables(caller: ProjectCaller, project_id: str) -> list[OpenedVariable]:
    """The variables of a project by key, for whoever may read the values of secrets. Raises NotFound, Forbidden,
    Conflict (409) for a value that cannot be read."""
    found = _opened(own_project(caller, project_id, "manage_projects"))
    if lost := next((each.row.key for each in found if each.value is None), None):
        raise Conflict(
            f"The value of '{lost}' cannot be read: the secret key of this server changed. Set it again.",
            code="variable_unreadable",
        )
    return found


def set_variable(caller: ProjectCaller, project_id: str, new: NewVariable) -> None:
    """Add or change a variable. Locks the project, flushes. Raises Invalid (422), Conflict (409) for too many, NotFound, Forbidden."""
    project = own_project(caller, project_id, "edit_projects", lock=True)
    check_variable(new)
    _store(project, {new.key: new})


def set_variables(caller: ProjectCaller, project_id: str, variables: Sequence[NewVariable]) -> list[str]:
    """Add or change several variables, the last of each key; returns the keys that were skipped because they are no names. Raises as
    `set_variable`."""
    project = own_project(caller, project_id, "edit_projects", lock=True)
    named = [each for each in variables if _KEY.fullmatch(each.key) and len(each.key) <= MAX_KEY]
    for each in named:
        check_variable(each)
    _store(project, {each.key: each for each in named})
    taken = {each.key for each in named}
    return [each.key for each in variables if each.key not in taken]


def remove_variable(caller: ProjectCaller, project_id: str, key: str) -> None:
    """Remove a variable if there is one. Raises NotFound, Forbidden."""
    project = own_project(caller, project_id, "edit_projects", lock=True)
    if "\0" not in key:
        mine = EnvironmentVariable.project_id == project.id, EnvironmentVariable.key == key
        db.session.execute(delete(EnvironmentVariable).where(*mine))


def check_variable(new: NewVariable) -> None:
    """Raise Invalid (422) for a key that is no name, or a value that is too long or has a NUL character."""
    if not _KEY.fullmatch(new.key) or len(new.key) > MAX_KEY:
        raise Invalid("'key' must be a name of letters, digits and _, which does not begin with a digit.")
    if "\0" in new.value or len(new.value.encode(errors="replace")) > MAX_VALUE:
        raise Invalid(f"'value' must have at most {MAX_VALUE >> 10} KiB, and no NUL character.")


def _store(project: Project, variables: Mapping[str, NewVariable]) -> None:
    count = select(func.count()).where(
        EnvironmentVariable.project_id == project.id, EnvironmentVariable.key.not_in(variables)
    )
    if (db.session.scalar(count) or 0) + len(variables) > MAX_VARIABLES:
        raise Conflict(f"A project has at most {MAX_VARIABLES} variables. Remove some first.")
    for key, new in variables.items():
        sealed = seal(_secret_key(), PURPOSE, new.value.encode(), context=_context(project.id, key))
        row = {"project_id": project.id, "key": key, "sealed": sealed}
        changes = {"sealed": sealed, "updated_at": now()}
        if new.is_secret is not None:
            changes["is_secret"] = new.is_secret
        statement = insert(EnvironmentVariable).values(id=new_id(), is_secret=bool(new.is_secret), **row)
        db.session.execute(
            statement.on_conflict_do_update(index_elements=["project_id", "key"], set_=changes)
        )


def _opened(project: Project) -> list[OpenedVariable]:
    query = select(EnvironmentVariable).where(EnvironmentVariable.project_id == project.id)
    rows = db.session.scalars(
        query.order_by(EnvironmentVariable.key).execution_options(populate_existing=True)
    )
    return [OpenedVariable(row, _value(row)) for row in rows]


def _value(row: EnvironmentVariable) -> str | None:
    try:
        context = _context(row.project_id, row.key)
        return open_sealed(_secret_key(), PURPOSE, row.sealed, context=context).decode()
    except SealBroken:
        return None


def _secret_key() -> str:
    key: str = extension("settings").secret_key
    return key


def _context(project_id: str, key: str) -> str:
    return f"{project_id} {key}"
