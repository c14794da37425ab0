"""Tables of a project's bytes: blobs in packs, directory trees and manifests, shared by all projects of an account.

No foreign key names the account: it would wait for every call of the account."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import (
    ARRAY,
    JSON,
    CheckConstraint,
    ColumnElement,
    ForeignKey,
    Index,
    TableValuedAlias,
    Text,
    any_,
    cast,
    column,
    func,
    literal,
    text,
)
from sqlalchemy.orm import InstrumentedAttribute, Mapped, mapped_column
from sqlalchemy.types import TypeEngine

from models.core.db import NOW, Base, BigInt


def among(
    key: InstrumentedAttribute[str] | InstrumentedAttribute[str | None], values: Iterable[str]
) -> ColumnElement[bool]:
    """The condition that a column is one of many texts, which are sent as one parameter."""
    return key == any_(literal(list(values), ARRAY(Text)))


def among_hashes(
    key: InstrumentedAttribute[str] | InstrumentedAttribute[str | None], hashes: Iterable[str]
) -> ColumnElement[bool]:
    """As `among`, for thousands of texts without commas: the database splits them, ten times as fast as the driver quotes them."""
    return key == any_(func.string_to_array(",".join(hashes), ","))


def rows_of_json(rows: Sequence[Mapping[str, Any]], types: Mapping[str, TypeEngine[Any]]) -> TableValuedAlias:
    """Rows as a table of a query, sent as one JSON text: thousands of them as parameters took ten times as long."""
    columns = [column(name, type) for name, type in types.items()]
    return (
        func.json_to_recordset(cast(orjson.dumps(rows).decode(), Text).cast(JSON))
        .table_valued(*columns)
        .render_derived("sent", with_types=True)
    )


def _hash_check(column: str) -> str:
    return f"({column} ~ '^[0-9a-f]{{64}}$'::text)"


class Pack(Base):
    """One file of the storage, which holds blobs one after another. Never changed once written."""

    __tablename__ = "pack"
    __table_args__ = (
        CheckConstraint("(bytes >= 0)", name="bytes_not_negative"),
        Index("idx_pack_account", "account_id", "bytes"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    account_id: Mapped[str]
    bytes: Mapped[int] = mapped_column(BigInt)
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


class Blob(Base):
    """The bytes of a file, known by their SHA-256. They are `length` bytes of their pack from `start`, compressed by `codec`; `size` is
    that of the file. `used_at` is when a client last sent or asked for it: it stays for a day after that.

    A large file is in no pack: its codec is `chunks`, and these are the hashes of the blobs that it consists of, in order."""

    __tablename__ = "blob"
    __table_args__ = (
        CheckConstraint(_hash_check("sha256"), name="sha256_hex"),
        CheckConstraint("((size >= 0) AND (start >= 0) AND (length >= 0))", name="sizes_not_negative"),
        CheckConstraint(
            "(codec = ANY (ARRAY['raw'::text, 'zstd'::text, 'chunks'::text]))", name="codec_known"
        ),
        CheckConstraint(
            "(((codec = 'chunks'::text) = (chunks IS NOT NULL)) AND ((codec = 'chunks'::text) = (pack_id IS NULL)))",
            name="pack_or_chunks",
        ),
        Index("idx_blob_pack", "pack_id"),
        Index("idx_blob_chunks", "account_id", "sha256", postgresql_where=text("(codec = 'chunks'::text)")),
    )

    account_id: Mapped[str] = mapped_column(primary_key=True)
    sha256: Mapped[str] = mapped_column(primary_key=True)
    size: Mapped[int] = mapped_column(BigInt)
    codec: Mapped[str]
    pack_id: Mapped[str | None] = mapped_column(ForeignKey("pack.id", ondelete="RESTRICT"))
    chunks: Mapped[list[str] | None] = mapped_column(ARRAY(Text), deferred=True)
    start: Mapped[int] = mapped_column(BigInt)
    length: Mapped[int] = mapped_column(BigInt)
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    used_at: Mapped[datetime] = mapped_column(server_default=NOW)


class PartUpload(Base):
    """A large file of `size` bytes that a client sends in parts, of which `received` bytes came. They are the blobs of `chunks`, and
    `tail`, which may be the beginning of a longer chunk. It is forgotten a day after its last part."""

    __tablename__ = "part_upload"
    __table_args__ = (
        CheckConstraint(_hash_check("sha256"), name="sha256_hex"),
        CheckConstraint("((received > 0) AND (received <= size))", name="received_part"),
    )

    account_id: Mapped[str] = mapped_column(primary_key=True)
    sha256: Mapped[str] = mapped_column(primary_key=True)
    size: Mapped[int] = mapped_column(BigInt)
    received: Mapped[int] = mapped_column(BigInt)
    chunks: Mapped[list[str]] = mapped_column(ARRAY(Text))
    tail: Mapped[bytes]
    updated_at: Mapped[datetime] = mapped_column(server_default=NOW)


class Tree(Base):
    """One directory, known by the SHA-256 of its listing (`directory_tree.py`), which is stored compressed by zstd."""

    __tablename__ = "tree"
    __table_args__ = (CheckConstraint(_hash_check("hash"), name="hash_hex"),)

    account_id: Mapped[str] = mapped_column(primary_key=True)
    hash: Mapped[str] = mapped_column(primary_key=True)
    listing: Mapped[bytes]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


class Manifest(Base):
    """The text that describes a whole tree, known by its SHA-256. `dialect` says how its bytes are made again from the tree: `typed`,
    `untyped`, or `raw` for a text that is kept as the blob of the same hash. A `raw` one without a tree is no manifest that the server
    can read. `bytes` are those of the text."""

    __tablename__ = "manifest"
    __table_args__ = (
        CheckConstraint(_hash_check("hash"), name="hash_hex"),
        CheckConstraint(
            "(dialect = ANY (ARRAY['typed'::text, 'untyped'::text, 'raw'::text]))", name="dialect_known"
        ),
        CheckConstraint("((tree_hash IS NOT NULL) OR (dialect = 'raw'::text))", name="tree_or_raw"),
        CheckConstraint("((bytes >= 0) AND (entries >= 0))", name="sizes_not_negative"),
    )

    account_id: Mapped[str] = mapped_column(primary_key=True)
    hash: Mapped[str] = mapped_column(primary_key=True)
    dialect: Mapped[str]
    tree_hash: Mapped[str | None]
    bytes: Mapped[int] = mapped_column(BigInt)
    entries: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    used_at: Mapped[datetime] = mapped_column(server_default=NOW)


class ProjectStorage(Base):
    """How much an account stores: the number and sizes of its blobs, before compression, and of its manifests' texts."""

    __tablename__ = "project_storage"
    __table_args__ = (
        CheckConstraint(
            "((blobs >= 0) AND (blob_bytes >= 0) AND (manifests >= 0) AND (manifest_bytes >= 0))",
            name="not_negative",
        ),
    )

    account_id: Mapped[str] = mapped_column(primary_key=True)
    blobs: Mapped[int] = mapped_column(BigInt, server_default=text("0"))
    blob_bytes: Mapped[int] = mapped_column(BigInt, server_default=text("0"))
    manifests: Mapped[int] = mapped_column(BigInt, server_default=text("0"))
    manifest_bytes: Mapped[int] = mapped_column(BigInt, server_default=text("0"))
