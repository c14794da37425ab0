"""Tables of the map of a project: its concepts, how they relate, the chunks that are searched, and what is known of each file."""

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, ForeignKeyConstraint, Index, SmallInteger, Text, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Mapped, mapped_column

from models.core.db import NOW, Base, BigInt
from models.projects.project import one_of
from models.projects.project_ids import new_id

LAYERS = ("narrative", "capability", "system", "module", "code")
STORED_EDGES = ("contains", "depends_on", "relates")
"""`used_by` is `depends_on` read from its other end."""
DIAGRAMS = ("flow", "dependency", "component", "sequence")
MAX_CONCEPT_ID = 1_100
"""Bytes: an index holds ids."""


class CodeFacts(Base):
    """What is known of the bytes of a file in one language (`fact_reading`), once an account: an unchanged file is never read again.

    `names` are those that it defines or uses, and its account after `@`, by which an index finds where a symbol is used."""

    __tablename__ = "code_facts"
    __table_args__ = (
        ForeignKeyConstraint(
            ["account_id", "sha256"],
            ["blob.account_id", "blob.sha256"],
            name="code_facts_blob_fk",
            ondelete="CASCADE",
        ),
        Index("idx_code_facts_names", "names", postgresql_using="gin"),
    )

    account_id: Mapped[str] = mapped_column(primary_key=True)
    sha256: Mapped[str] = mapped_column(primary_key=True)
    language: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[int]
    lines: Mapped[int]
    parsed: Mapped[bool]
    failed: Mapped[bool]
    package: Mapped[str | None]
    imports: Mapped[list[Any]] = mapped_column(JSONB)
    names: Mapped[list[str]] = mapped_column(ARRAY(Text))
    facts: Mapped[dict[str, Any]] = mapped_column(JSONB)


class AtlasIndex(Base):
    """Up to which files a project is indexed: those of `snapshot_id`, or of `workspace_id` if they are in no snapshot yet.

    `unread` files wait for the job, `left_out` are too many or have too long paths; `source_id` holds the chunks (`models/index`), the
    next of which is `next_seq`; `history` is the newest snapshot whose changes are counted."""

    __tablename__ = "atlas_index"
    __table_args__ = (
        CheckConstraint(
            "((files >= 0) AND (unread >= 0) AND (left_out >= 0) AND (next_seq >= 0))",
            name="counts_not_negative",
        ),
        Index("idx_atlas_index_source", "source_id"),
    )

    project_id: Mapped[str] = mapped_column(ForeignKey("project.id", ondelete="CASCADE"), primary_key=True)
    source_id: Mapped[int] = mapped_column(BigInt, ForeignKey("document_source.id", ondelete="CASCADE"))
    workspace_id: Mapped[str | None]
    snapshot_id: Mapped[str | None]
    manifest_hash: Mapped[str]
    tree_hash: Mapped[str]
    version: Mapped[int]
    history: Mapped[str | None]
    files: Mapped[int]
    unread: Mapped[int]
    left_out: Mapped[int]
    next_seq: Mapped[int]
    indexed_at: Mapped[datetime]


class AtlasConcept(Base):
    """A part of a project: a system, a module or a file of it, a decision, or what it is able to do. `importance` is from 0 to 100, by what
    depends on it; `sha256` that of a file's bytes."""

    __tablename__ = "atlas_concept"
    __table_args__ = (
        CheckConstraint(one_of("layer", LAYERS), name="layer_known"),
        CheckConstraint(f"(octet_length(id) <= {MAX_CONCEPT_ID})", name="id_length"),
        Index("idx_atlas_concept_layer", "project_id", "layer", "importance"),
        Index(
            "idx_atlas_concept_sha256",
            "project_id",
            "sha256",
            postgresql_where=text("(sha256 IS NOT NULL)"),
        ),
    )

    project_id: Mapped[str] = mapped_column(ForeignKey("project.id", ondelete="CASCADE"), primary_key=True)
    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    layer: Mapped[str]
    type: Mapped[str | None]
    description: Mapped[str | None]
    sha256: Mapped[str | None]
    importance: Mapped[int] = mapped_column(SmallInteger)
    # named differently: the base class has `metadata`
    details: Mapped[dict[str, Any] | None] = mapped_column("metadata", JSONB(none_as_null=True))
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    updated_at: Mapped[datetime] = mapped_column(server_default=NOW)


class AtlasEdge(Base):
    """How two concepts relate. `weight` counts: imports of `depends_on`, snapshots that changed both of `relates`. `evidence` are places:
    `[path, line]`."""

    __tablename__ = "atlas_edge"
    __table_args__ = (
        CheckConstraint(one_of("type", STORED_EDGES), name="type_known"),
        *(
            ForeignKeyConstraint(
                ["project_id", f"{end}_concept_id"],
                ["atlas_concept.project_id", "atlas_concept.id"],
                name=f"atlas_edge_{end}_fk",
                ondelete="CASCADE",
            )
            for end in ("from", "to")
        ),
        Index("idx_atlas_edge_from", "project_id", "from_concept_id"),
        Index("idx_atlas_edge_to", "project_id", "to_concept_id"),
        Index("idx_atlas_edge_type", "project_id", "type"),
    )

    project_id: Mapped[str] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(primary_key=True)
    from_concept_id: Mapped[str]
    to_concept_id: Mapped[str]
    type: Mapped[str]
    weight: Mapped[int | None]
    evidence: Mapped[list[Any] | None] = mapped_column(JSONB(none_as_null=True))
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


class AtlasChunk(Base):
    """What a chunk of the index is about; its text and words are in `chunk` with the index's source and this number."""

    __tablename__ = "atlas_chunk"
    __table_args__ = (
        CheckConstraint(one_of("kind", ("code", "decision")), name="kind_known"),
        ForeignKeyConstraint(
            ["project_id", "concept_id"],
            ["atlas_concept.project_id", "atlas_concept.id"],
            name="atlas_chunk_concept_fk",
            ondelete="CASCADE",
        ),
        Index("idx_atlas_chunk_concept", "project_id", "concept_id"),
    )

    project_id: Mapped[str] = mapped_column(primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    concept_id: Mapped[str]
    kind: Mapped[str]
    file_path: Mapped[str | None]
    symbol: Mapped[str | None]
    source_hash: Mapped[str]


class AtlasDecisionLink(Base):
    """A decision that names a concept. `confidence` is in percent."""

    __tablename__ = "atlas_decision_link"
    __table_args__ = (
        CheckConstraint("((confidence >= 0) AND (confidence <= 100))", name="confidence_percent"),
        ForeignKeyConstraint(
            ["project_id", "concept_id"],
            ["atlas_concept.project_id", "atlas_concept.id"],
            name="atlas_decision_link_concept_fk",
            ondelete="CASCADE",
        ),
        Index("idx_atlas_decision_link_decision", "decision_id"),
        Index("idx_atlas_decision_link_concept", "project_id", "concept_id"),
    )

    project_id: Mapped[str] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(primary_key=True)
    decision_id: Mapped[str] = mapped_column(ForeignKey("project_decision.id", ondelete="CASCADE"))
    concept_id: Mapped[str]
    confidence: Mapped[int | None]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


class AtlasDiagram(Base):
    """A diagram as it was asked for: `data` in the shape of the contract (3.14)."""

    __tablename__ = "atlas_diagram"
    __table_args__ = (
        CheckConstraint(one_of("type", DIAGRAMS), name="type_known"),
        Index("idx_atlas_diagram_list", "project_id", "created_at", "id"),
    )

    project_id: Mapped[str] = mapped_column(ForeignKey("project.id", ondelete="CASCADE"), primary_key=True)
    id: Mapped[str] = mapped_column(primary_key=True, default=new_id)
    concept_id: Mapped[str | None]
    type: Mapped[str]
    data: Mapped[dict[str, Any]] = mapped_column(JSONB)
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
