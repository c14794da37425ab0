"""What a model says about parts of a project: asked for once at a time, kept with the bytes of the files that it cites."""

import uuid
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index, or_, select
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.orm import Mapped, mapped_column

from models.atlas.atlas_correction import MAX_SUBJECT
from models.atlas.atlas_words_checking import checked_words
from models.atlas.atlas_words_request import WordsRequest, words_request
from models.atlas.atlas_words_subject import WordsSubject
from models.core.db import Base, BigInt, db, now
from models.gateway import GatewayCall
from models.projects.project import Project
from models.projects.project_states import state_of
from models.projects.snapshots.tree_reading import entries_at

WORDS_CLIENT = "stoa-atlas"
"""`client_id` of these calls."""
LONGEST = timedelta(minutes=6)
"""After which a model that did not answer is asked again: its server may have died."""
MICRO = 1_000_000


class AtlasWords(Base):
    """What a model says about `subject` (`WordsSubject.key`): sentences with citations, as `checked_words` returns them.

    `cited` holds the SHA-256 of each cited file by its path, `cut` how many sentences were thrown away, `request_id` the call that was paid.
    `writing_id` is the request on its way, if `writing_until` has not passed; `problem` why the last one failed."""

    __tablename__ = "atlas_words"
    __table_args__ = (
        CheckConstraint(f"(octet_length(subject) <= {MAX_SUBJECT})", name="subject_length"),
        CheckConstraint(
            "((cut >= 0) AND ((micro_credits IS NULL) OR (micro_credits >= 0)))", name="counts_not_negative"
        ),
        CheckConstraint("((written_at IS NULL) = (model IS NULL))", name="written_by_a_model"),
        CheckConstraint("((writing_id IS NULL) = (writing_until IS NULL))", name="writing_until_then"),
        Index("idx_atlas_words_asked_by", "asked_by"),
    )

    project_id: Mapped[str] = mapped_column(ForeignKey("project.id", ondelete="CASCADE"), primary_key=True)
    subject: Mapped[str] = mapped_column(primary_key=True)
    sentences: Mapped[list[dict[str, Any]]] = mapped_column(JSONB)
    cited: Mapped[dict[str, str]] = mapped_column(JSONB)
    cut: Mapped[int]
    model: Mapped[str | None]
    request_id: Mapped[str | None]
    run_id: Mapped[str | None]
    micro_credits: Mapped[int | None] = mapped_column(BigInt)
    snapshot_id: Mapped[str | None]
    asked_by: Mapped[str | None] = mapped_column(ForeignKey("user.id", ondelete="SET NULL"))
    written_at: Mapped[datetime | None]
    writing_id: Mapped[str | None]
    writing_until: Mapped[datetime | None]
    problem: Mapped[str | None]

    @property
    def is_writing(self) -> bool:
        """Whether a model was asked and may answer yet."""
        return self.writing_until is not None and self.writing_until > now()

    @property
    def credits(self) -> Decimal | None:
        """What the call cost, with the fractions that the ledger carries over; None if that is not known."""
        return None if self.micro_credits is None else Decimal(self.micro_credits) / MICRO


@dataclass(frozen=True)
class WordsAsk:
    """A request for words that the caller now sends, and then ends by `keep_words` or `fail_words`."""

    id: str
    project_id: str
    subject: str
    model: str
    asked_by: str
    request: WordsRequest = field(repr=False)
    run_id: str | None = None


def words_of(project_id: str, key: str) -> AtlasWords | None:
    """What was said about a subject, and whether more is on its way."""
    return db.session.get(AtlasWords, (project_id, key), populate_existing=True)


def changed_since(project: Project, words: AtlasWords) -> list[str]:
    """The files that the words cite and that are other bytes now, or gone."""
    tree = state_of(project).tree
    found = entries_at(project.account_id, tree, words.cited) if tree else {}
    return sorted(
        path
        for path, sha256 in words.cited.items()
        if (entry := found.get(path)) is None or entry.hash != sha256
    )


def begin_words(
    project: Project,
    subject: WordsSubject,
    model: str,
    asked_by: str,
    *,
    refresh: bool = False,
    run_id: str | None = None,
) -> WordsAsk | AtlasWords:
    """Ask for words about a subject, unless somebody else does: then their row, which `is_writing`. Without `refresh`, also words of the same
    model whose files have not changed are returned. Whoever calls it checks access, and commits before sending. Raises as
    `words_request`."""
    known = words_of(project.id, subject.key)
    if known is not None and (known.is_writing or (not refresh and _holds(project, known, model))):
        return known
    ask = WordsAsk(
        uuid.uuid4().hex,
        project.id,
        subject.key,
        model,
        asked_by,
        words_request(project, subject, model),
        run_id,
    )
    moment = now()
    claim = {"writing_id": ask.id, "writing_until": moment + LONGEST, "problem": None}
    made = insert(AtlasWords).values(
        project_id=project.id, subject=subject.key, sentences=[], cited={}, cut=0, **claim
    )
    made = made.on_conflict_do_update(
        index_elements=["project_id", "subject"],
        set_=claim,
        where=or_(AtlasWords.writing_until.is_(None), AtlasWords.writing_until <= moment),
    )
    if db.session.scalar(made.returning(AtlasWords.writing_id)) == ask.id:
        return ask
    found = words_of(project.id, subject.key)
    assert found is not None
    return found


def keep_words(ask: WordsAsk, answer: str, request_id: str) -> AtlasWords | None:
    """Store what holds of a model's answer; None if the project is gone, or the request took so long that somebody asked again. Flushes.
    Raises ModelFailed: then call `fail_words`."""
    checked = checked_words(answer, ask.request.shown)
    cost = db.session.scalar(select(GatewayCall.micro_credits).where(GatewayCall.request_id == request_id))
    row = _own(ask)
    if row is None:
        return None
    row.sentences, row.cited, row.cut = checked.sentences, checked.cited, checked.cut
    row.model, row.request_id, row.run_id = ask.model, request_id, ask.run_id
    row.micro_credits = cost
    row.snapshot_id, row.asked_by, row.written_at = ask.request.snapshot_id, ask.asked_by, now()
    row.writing_id = row.writing_until = row.problem = None
    db.session.flush()
    return row


def fail_words(ask: WordsAsk, problem: str) -> None:
    """End a request without an answer; the words from before stay. Flushes."""
    row = _own(ask)
    if row is not None:
        row.writing_id, row.writing_until, row.problem = None, None, problem[:1_000]
        db.session.flush()


def _own(ask: WordsAsk) -> AtlasWords | None:
    query = select(AtlasWords).where(
        AtlasWords.project_id == ask.project_id,
        AtlasWords.subject == ask.subject,
        AtlasWords.writing_id == ask.id,
    )
    return db.session.scalars(query.with_for_update().execution_options(populate_existing=True)).one_or_none()


def _holds(project: Project, words: AtlasWords, model: str) -> bool:
    """Whether words of this model describe the files as they are."""
    return bool(words.sentences) and words.model == model and not changed_since(project, words)
