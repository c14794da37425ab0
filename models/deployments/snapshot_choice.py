"""Which snapshot is deployed when a client names only its files."""

from sqlalchemy import select

from models.core.db import db
from models.core.errors import Invalid
from models.projects.project import Project
from models.projects.project_ids import fits
from models.projects.snapshots.snapshot import Snapshot


def snapshot_with_manifest(project: Project, manifest_hash: str) -> Snapshot:
    """The newest snapshot of the project with these files. Raises Invalid (422)."""
    query = select(Snapshot).where(Snapshot.project_id == project.id, Snapshot.manifest_hash == manifest_hash)
    newest = query.order_by(Snapshot.created_at.desc(), Snapshot.id.desc()).limit(1)
    found = db.session.scalars(newest).one_or_none() if fits(manifest_hash) else None
    if found is None:
        raise Invalid(
            "'manifest_hash': no snapshot of the project has these files. Push one first: a deployment pins a snapshot."
        )
    return found
