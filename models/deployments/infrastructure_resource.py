"""What a project has at providers: compute, databases, storage; how to connect to it is sealed (fastest contract 3.15)."""

import secrets
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import CheckConstraint, ForeignKey, Index, select
from sqlalchemy.orm import Mapped, mapped_column

from models.core.db import NOW, Base, db, extension, now
from models.core.errors import NotFound
from models.core.sealing import seal
from models.deployments.provider_credential import PROVIDERS
from models.projects.project import Project, one_of
from models.projects.project_ids import fits

TYPES = (
    *("compute", "compute:edge", "database:postgres", "database:mysql", "database:redis"),
    "storage:blob",
)
STATUSES = ("pending", "provisioning", "ready", "error", "deleted")
PURPOSE = "resource"
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def new_resource_id() -> str:
    """`res_`, the milliseconds in base 36, and six random characters."""
    number, digits = time.time_ns() // 1_000_000, ""
    while number:
        number, digit = divmod(number, 36)
        digits = _DIGITS[digit] + digits
    return f"res_{digits}{''.join(secrets.choice(_DIGITS) for _ in range(6))}"


class InfrastructureResource(Base):
    """Something that a provider runs or stores for a project. `sealed` is how to connect to it, bound to the resource; None if that is not
    known. One that was destroyed stays as `deleted`."""

    __tablename__ = "infrastructure_resource"
    __table_args__ = (
        CheckConstraint(one_of("type", TYPES), name="type_known"),
        CheckConstraint(one_of("provider", PROVIDERS), name="provider_known"),
        CheckConstraint(one_of("status", STATUSES), name="status_known"),
        Index("idx_infrastructure_resource_project", "project_id", "type"),
    )

    id: Mapped[str] = mapped_column(primary_key=True, default=new_resource_id)
    project_id: Mapped[str] = mapped_column(ForeignKey("project.id", ondelete="CASCADE"))
    type: Mapped[str]
    provider: Mapped[str]
    provider_resource_id: Mapped[str | None]
    name: Mapped[str]
    sealed: Mapped[str | None]
    status: Mapped[str]
    error: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    updated_at: Mapped[datetime] = mapped_column(server_default=NOW)


def resources_of(project: Project) -> Sequence[InfrastructureResource]:
    """The resources of a project, the newest first, deleted ones too."""
    query = select(InfrastructureResource).where(InfrastructureResource.project_id == project.id)
    newest = query.order_by(InfrastructureResource.created_at.desc(), InfrastructureResource.id.desc())
    return db.session.scalars(newest).all()


def resource_of(project: Project, id: str) -> InfrastructureResource:
    """A resource of the project. Raises NotFound."""
    found = db.session.get(InfrastructureResource, id) if fits(id) else None
    if found is None or found.project_id != project.id:
        raise NotFound("There is no such resource.")
    return found


def record_resource(
    project_id: str,
    type: str,
    provider: str,
    provider_resource_id: str,
    name: str,
    connection: Mapping[str, Any] | None = None,
) -> InfrastructureResource:
    """Note that a provider has this for a project; once for each id of the provider. Flushes."""
    query = select(InfrastructureResource).where(
        InfrastructureResource.project_id == project_id,
        InfrastructureResource.provider == provider,
        InfrastructureResource.provider_resource_id == provider_resource_id,
    )
    row = db.session.scalars(query).first() or InfrastructureResource(
        id=new_resource_id(),
        project_id=project_id,
        provider=provider,
        provider_resource_id=provider_resource_id,
        created_at=now(),
    )
    row.type, row.name, row.status, row.error, row.updated_at = type, name, "ready", None, now()
    if connection is not None:
        key = extension("settings").secret_key
        row.sealed = seal(key, PURPOSE, orjson.dumps(dict(connection)), context=row.id)
    db.session.add(row)
    db.session.flush()
    return row


def mark_deleted(resource: InfrastructureResource, error: str | None) -> None:
    """It is gone here; `error` is why the provider may still have it. Forgets how to connect. Flushes."""
    resource.status, resource.error = "deleted", error
    resource.sealed, resource.updated_at = None, now()
    db.session.flush()
