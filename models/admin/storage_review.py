"""Sizes of tables and files for operators: now, by day, and what retention removes."""

from datetime import date

from sqlalchemy.orm import Mapped, mapped_column

from models.core.db import Base, BigInt


class StorageSample(Base):
    """The size of a table with its indexes, of the whole database (`database`) or of the stored files (`files`) on a day (UTC).
    `rows` is an estimate, or the number of files."""

    __tablename__ = "storage_sample"

    day: Mapped[date] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    bytes: Mapped[int] = mapped_column(BigInt)
    rows: Mapped[int] = mapped_column(BigInt)
