"""What of a project can be described: the whole, a part of its map, or a symbol that a file defines."""

from dataclasses import dataclass

from models.atlas.atlas_correction import MAX_SUBJECT
from models.atlas.atlas_tables import AtlasConcept
from models.atlas.diagrams import concept_of
from models.atlas.fact_cache import facts_of
from models.atlas.fact_reading import CodeDefinition
from models.atlas.symbol_uses import MAX_SYMBOL
from models.core.errors import Invalid, NotFound
from models.projects.project import Project

WHOLE = "project"
"""The key of a project as a whole."""


@dataclass(frozen=True)
class WordsSubject:
    """What is described. `key` is the same for the same part of any later map: `project`, the id of a concept, or `symbol:path#name`.
    `definition` is that of a symbol in the file `concept`."""

    key: str
    concept: AtlasConcept | None = None
    definition: CodeDefinition | None = None

    @property
    def concept_id(self) -> str | None:
        """The concept that is asked for; None: the whole project."""
        return self.concept.id if self.concept else None

    @property
    def symbol(self) -> str | None:
        """The symbol that is asked for."""
        return self.definition.name if self.definition else None

    @property
    def kind(self) -> str:
        """`project`, `symbol`, `file`, or the layer of the concept."""
        if self.definition is not None:
            return "symbol"
        if self.concept is None:
            return "project"
        return "file" if self.concept.layer == "code" else self.concept.layer

    @property
    def path(self) -> str | None:
        """The path of a file, or of the file that defines a symbol."""
        is_file = self.concept is not None and self.concept.layer == "code"
        return self.concept.id.removeprefix("code:") if self.concept is not None and is_file else None


def subject_of(project: Project, concept_id: str | None = None, symbol: str | None = None) -> WordsSubject:
    """The subject with this concept, and symbol of it. Whoever calls it checks access. Raises NotFound, Invalid for a decision and for a
    symbol without a file."""
    if not concept_id:
        if symbol:
            raise Invalid("'symbol' needs 'concept_id', the file that defines it, such as 'code:src/app.py'.")
        return WordsSubject(WHOLE)
    concept = concept_of(project.id, concept_id)
    if concept.layer == "narrative":
        raise Invalid("A decision speaks for itself. Change the decision instead of its part of the map.")
    if not symbol:
        return WordsSubject(concept.id, concept)
    if concept.layer != "code":
        raise Invalid("'symbol' needs the file that defines it as 'concept_id', such as 'code:src/app.py'.")
    definition = _definition(project, concept, symbol)
    key = f"symbol:{concept.id.removeprefix('code:')}#{symbol}"
    if definition is None or len(key.encode()) > MAX_SUBJECT:
        raise NotFound("The file defines no such symbol. Index the project again if its files changed.")
    return WordsSubject(key, concept, definition)


def _definition(project: Project, concept: AtlasConcept, symbol: str) -> CodeDefinition | None:
    """The first definition of this name, as the map knows the file."""
    if len(symbol) > MAX_SYMBOL or concept.sha256 is None:
        return None
    known = facts_of(project.account_id, {(concept.sha256, (concept.details or {}).get("language", ""))})
    defined = (CodeDefinition(*each) for facts in known.values() for each in facts.get("defs", ()))
    return next((each for each in defined if each.name == symbol), None)
