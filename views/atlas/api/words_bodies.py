"""Answers about what models and people say of the parts of a project."""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from models.atlas import AtlasCorrection, AtlasWords
from models.atlas.atlas_words_subject import WordsSubject
from views.web.format import iso
from views.web.operation import ResponseModel


class CitationObject(ResponseModel):
    path: str
    line: int
    end_line: int
    symbol: str | None
    changed: bool = Field(
        description="The file has other bytes now, so that the lines may say something else"
    )


class SentenceObject(ResponseModel):
    text: str = Field(description="Plain text")
    citations: list[CitationObject]


class DescriptionObject(ResponseModel):
    project_id: str
    concept_id: str | None = Field(description="None: the whole project")
    symbol: str | None
    text: str = Field(description="What a person wrote in its place, else the sentences")
    sentences: list[SentenceObject] = Field(
        description="What a model says; all of them cite lines that its files had"
    )
    cut: int = Field(description="Sentences that were thrown away, because they cite nothing that exists")
    model: str | None
    request_id: str | None = Field(description="The call that was paid for")
    run_id: str | None
    credits: str | None = Field(description="What the call cost, exactly")
    snapshot_id: str | None
    written_at: datetime | None
    changed_files: list[str] = Field(description="Cited files that have changed since")
    writing: bool = Field(description="A model was asked and has not answered yet")
    problem: str | None = Field(description="Why the last request had no answer")
    corrected_by: str | None = Field(
        description="The id of the person whose description holds over the model's"
    )
    corrected_at: datetime | None


class DescriptionAnswer(ResponseModel):
    description: DescriptionObject | None = Field(
        description="None: nobody has described it, and nobody was asked to"
    )


class CorrectionObject(ResponseModel):
    id: str
    project_id: str
    concept_id: str | None = Field(description="None: the whole project")
    symbol: str | None
    other_concept_id: str | None = Field(description="The other one of two that are not related")
    field: Literal["name", "description", "type", "related"]
    value: str | None = Field(description="What holds since; null: what the map says itself")
    before: str | None
    current: bool = Field(description="Nobody has corrected it again")
    user_id: str | None
    created_at: datetime


class CorrectionList(ResponseModel):
    corrections: list[CorrectionObject]


class CorrectionAnswer(ResponseModel):
    correction: CorrectionObject


def description_json(
    project_id: str,
    subject: WordsSubject,
    words: AtlasWords | None,
    changed: Collection[str],
    correction: AtlasCorrection | None,
) -> dict[str, Any] | None:
    """A `DescriptionObject`; None if there is nothing to say."""
    if words is None and correction is None:
        return None
    sentences = words.sentences if words else []
    said = " ".join(each["text"] for each in sentences)
    return {
        "project_id": project_id,
        "concept_id": subject.concept_id,
        "symbol": subject.symbol,
        "text": correction.value if correction else said,
        "sentences": [
            {
                "text": each["text"],
                "citations": [_citation(cited, changed) for cited in each["citations"]],
            }
            for each in sentences
        ],
        "cut": words.cut if words else 0,
        **{
            name: getattr(words, name, None)
            for name in ("model", "request_id", "run_id", "snapshot_id", "problem")
        },
        "credits": None if words is None or words.credits is None else f"{words.credits.normalize():f}",
        "written_at": iso(words.written_at) if words and words.written_at else None,
        "changed_files": list(changed),
        "writing": words is not None and words.is_writing,
        "corrected_by": correction.user_id if correction else None,
        "corrected_at": iso(correction.created_at) if correction else None,
    }


def correction_json(row: AtlasCorrection) -> dict[str, Any]:
    """A `CorrectionObject`."""
    names = ("id", "project_id", "field", "value", "before", "current", "user_id")
    concept, symbol = _named(row.subject)
    return {
        **{name: getattr(row, name) for name in names},
        "concept_id": concept,
        "symbol": symbol,
        "other_concept_id": row.other or None,
        "created_at": iso(row.created_at),
    }


def _named(key: str) -> tuple[str | None, str | None]:
    """The concept and the symbol of a subject's key."""
    if key.startswith("symbol:"):
        path, _, symbol = key.removeprefix("symbol:").rpartition("#")
        return f"code:{path}", symbol
    return (None if key == "project" else key), None


def _citation(cited: Mapping[str, Any], changed: Collection[str]) -> dict[str, Any]:
    return {**cited, "changed": cited["path"] in changed}
