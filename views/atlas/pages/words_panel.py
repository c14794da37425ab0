"""What the panel of a description shows: words of a model or of a person, how fresh they are, and what new ones cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flask import current_app, url_for

from models.atlas import AtlasCorrection, AtlasWords
from models.atlas.atlas_correction import held_corrections
from models.atlas.atlas_words import changed_since, words_of
from models.atlas.atlas_words_request import MAX_SOURCE
from models.atlas.atlas_words_subject import WordsSubject
from models.atlas.words_writing import likely_credits
from models.core.errors import DomainError
from models.gateway.model_suggestion import suggested_model
from models.projects import Project
from models.projects.project_listing import people_of
from views.atlas.pages.atlas_blueprint import line_href
from views.gateway.api.model_calls import gateway
from views.projects.pages.project_blueprint import viewer_may
from views.web.guards import settings
from views.web.org_guards import may_spend, viewed_account

MAX_SUGGESTED = 200
"""Models that a field offers."""


@dataclass(frozen=True)
class WordsPanel:
    """A description: `words` of a model, a person's `correction` that holds over them, `changed` files, and with which `model` new ones cost
    about how many `credits`, None if that is not known."""

    project: Project
    subject: WordsSubject
    words: AtlasWords | None
    changed: Sequence[str]
    correction: AtlasCorrection | None
    people: Mapping[str, str]
    models: Sequence[str]
    model: str
    credits: int | None
    error: str
    may_edit: bool
    may_spend: bool

    @property
    def is_writing(self) -> bool:
        return self.words is not None and self.words.is_writing

    @property
    def name(self) -> str:
        """What is described, as its page calls it."""
        return self.subject.symbol or (self.subject.concept.name if self.subject.concept else "the project")

    @property
    def query(self) -> dict[str, str | None]:
        """The parameters of pages about the subject."""
        return {"concept": self.subject.concept_id, "symbol": self.subject.symbol}

    @property
    def href(self) -> str:
        """The page of the description alone."""
        subject = self.subject
        return url_for(
            "atlas.words", project_id=self.project.id, concept=subject.concept_id, symbol=subject.symbol
        )

    def line_href(self, path: str, line: int) -> str:
        """A cited line: as the model saw it, if the file has changed since."""
        at = self.words.snapshot_id if self.words and path in self.changed else None
        return line_href(self.project, path, line, at)


def words_panel(project: Project, subject: WordsSubject, model: str = "", error: str = "") -> WordsPanel:
    """The panel of a subject; `model` and `error` are those of a form that was refused."""
    words = words_of(project.id, subject.key)
    correction = held_corrections(project.id).fields.get((subject.key, "description"))
    may_edit = viewer_may("edit_projects")
    names = [each.requested for each in gateway(current_app).routes.models()] if may_edit else []
    chosen = model
    if may_edit and not chosen:
        usual = (words.model if words else None) or settings().stoa_insights_model
        chosen = usual or suggested_model(names, viewed_account().id)
    return WordsPanel(
        project=project,
        subject=subject,
        words=words,
        changed=changed_since(project, words) if words else (),
        correction=correction,
        people=people_of([words.asked_by if words else None, correction.user_id if correction else None]),
        models=names[:MAX_SUGGESTED],
        model=chosen,
        credits=_credits(subject, chosen) if may_edit else None,
        error=error,
        may_edit=may_edit,
        may_spend=may_edit and may_spend(),
    )


def _credits(subject: WordsSubject, model: str) -> int | None:
    """About what a description costs; a file is read alone, other parts fill the request."""
    concept = subject.concept
    size = (concept.details or {}).get("size") if concept is not None and subject.path else None
    try:
        return likely_credits(model, size if isinstance(size, int) else MAX_SOURCE)
    except DomainError:
        return None
