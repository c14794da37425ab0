"""Features that operators enable for an organisation."""

import re
from typing import Any

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert

from models.core.db import NOW, db
from models.core.errors import Invalid
from models.orgs.audit import record_org
from models.orgs.org import Org, OrgFeature

_NAME = re.compile(r"[a-z][a-z0-9_-]{1,49}")


def features(org: Org) -> list[OrgFeature]:
    """The features that were ever set for the organisation, by name."""
    query = select(OrgFeature).where(OrgFeature.org_id == org.id).order_by(OrgFeature.feature)
    return list(db.session.scalars(query))


def stored_feature(org: Org, name: str) -> OrgFeature | None:
    """The feature as it was set for the organisation, or None."""
    return None if "\0" in name else db.session.get(OrgFeature, (org.id, name))


def feature_on(org: Org, name: str) -> bool:
    """Whether the feature is enabled for the organisation."""
    found = db.session.get(OrgFeature, (org.id, name))
    return found is not None and found.is_active


def feature_config(org: Org, name: str) -> dict[str, Any]:
    """The configuration of an enabled feature; empty if it is disabled or has none."""
    found = db.session.get(OrgFeature, (org.id, name))
    return dict(found.config or {}) if found is not None and found.is_active else {}


def set_feature(
    org: Org, name: str, on: bool, config: dict[str, Any] | None = None, *, actor: str | None = None
) -> None:
    """Enable or disable a feature; `config` replaces its configuration unless None. Flushes. Raises Invalid for the name."""
    if not _NAME.fullmatch(name):
        raise Invalid("A feature's name has 2 to 50 characters: a-z, 0-9, hyphens and underscores.")
    found = db.session.get(OrgFeature, (org.id, name), populate_existing=True)
    before = {"on": found.is_active, "config": found.config} if found else None
    kept = found.config if config is None and found else config
    values = {"is_active": on, "config": kept}
    db.session.execute(
        insert(OrgFeature)
        .values(org_id=org.id, feature=name, **values)
        .on_conflict_do_update(
            index_elements=[OrgFeature.org_id, OrgFeature.feature], set_={**values, "updated_at": NOW}
        )
    )
    db.session.get(OrgFeature, (org.id, name), populate_existing=True)
    after = {"on": on, "config": kept}
    if after != before:
        record_org(org.id, "feature.changed", name, before=before, after=after, actor=actor)
