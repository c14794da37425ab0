"""What people say otherwise about the map of a project: it holds over what files and models say, and survives each new index."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from sqlalchemy import CheckConstraint, ForeignKey, Index, select, text
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.orm.attributes import set_committed_value

from models.atlas.atlas_tables import AtlasConcept, AtlasDecisionLink, AtlasEdge
from models.core.db import Base, db
from models.projects.project import one_of
from models.projects.project_ids import new_id

CORRECTABLE = {"name": 120, "description": 2_000, "type": 40}
"""What of a part can be corrected, and how many characters it may have."""
MAX_SUBJECT = 1_400
"""Bytes of the key of a subject: an index holds them."""
DECISION = "narrative:decision:"
T = TypeVar("T", AtlasEdge, AtlasDecisionLink)


class AtlasCorrection(Base):
    """One change by a person. `value` is what holds for `field` since, None what the map says itself, and `before` what held until then.
    `subject` is a `WordsSubject.key`; two concepts that are not `related` stand in `subject` and `other`, the lesser id first.

    Rows are never changed, but `current`, which the newest of a field has."""

    __tablename__ = "atlas_correction"
    __table_args__ = (
        CheckConstraint(one_of("field", (*CORRECTABLE, "related")), name="field_known"),
        CheckConstraint("((field = 'related'::text) = (other <> ''::text))", name="pairs_are_related"),
        CheckConstraint(
            f"((octet_length(subject) <= {MAX_SUBJECT}) AND (octet_length(other) <= 1100))",
            name="subject_length",
        ),
        CheckConstraint("((length(value) <= 2000) AND (value <> ''::text))", name="value_length"),
        Index(
            "idx_atlas_correction_current",
            *("project_id", "subject", "other", "field"),
            unique=True,
            postgresql_where=text("current"),
        ),
        Index("idx_atlas_correction_project", "project_id", "created_at", "id"),
        Index("idx_atlas_correction_user", "user_id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True, default=new_id)
    project_id: Mapped[str] = mapped_column(ForeignKey("project.id", ondelete="CASCADE"))
    subject: Mapped[str]
    other: Mapped[str]
    field: Mapped[str]
    value: Mapped[str | None]
    before: Mapped[str | None]
    current: Mapped[bool]
    user_id: Mapped[str | None] = mapped_column(ForeignKey("user.id", ondelete="SET NULL"))
    created_at: Mapped[datetime]


@dataclass(frozen=True)
class HeldCorrections:
    """The corrections of a project that hold: by subject and field, and the pairs that are not related."""

    fields: Mapping[tuple[str, str], AtlasCorrection]
    unrelated: frozenset[tuple[str, str]]

    def of(self, key: str) -> dict[str, AtlasCorrection]:
        """Those of one subject by field."""
        found = {field: self.fields.get((key, field)) for field in CORRECTABLE}
        return {field: row for field, row in found.items() if row is not None}

    def shown(self, concepts: Iterable[AtlasConcept]) -> list[AtlasConcept]:
        """The concepts as people corrected them. The rows in the database stay as the files say."""
        rows = list(concepts)
        for row in rows if self.fields else ():
            for field, correction in self.of(row.id).items():
                set_committed_value(row, field, correction.value)
        return rows

    def related(self, rows: Iterable[T]) -> list[T]:
        """The edges or links without those that people denied."""
        return [row for row in rows if not self.unrelated or not self.denies(*_ends(row))]

    def denies(self, one: str, other: str) -> bool:
        """Whether somebody said that the two are not related."""
        return pair(one, other) in self.unrelated


def held_corrections(project_id: str) -> HeldCorrections:
    """What people say otherwise about the map, in one query."""
    query = select(AtlasCorrection).where(
        AtlasCorrection.project_id == project_id,
        AtlasCorrection.current,
        AtlasCorrection.value.is_not(None),
    )
    rows = db.session.scalars(query).all()
    return HeldCorrections(
        {(row.subject, row.field): row for row in rows if row.field != "related"},
        frozenset((row.subject, row.other) for row in rows if row.field == "related"),
    )


def pair(one: str, other: str) -> tuple[str, str]:
    """Two ids in the order in which they are stored."""
    return (one, other) if one <= other else (other, one)


def _ends(row: AtlasEdge | AtlasDecisionLink) -> tuple[str, str]:
    if isinstance(row, AtlasEdge):
        return row.from_concept_id, row.to_concept_id
    return f"{DECISION}{row.decision_id}", row.concept_id
