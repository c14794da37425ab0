"""Corrects the map of a project, lists what people corrected, and undoes it."""

from collections.abc import Mapping, Sequence

from sqlalchemy import func, or_, select, update

from models.atlas.atlas_correction import CORRECTABLE, DECISION, AtlasCorrection, pair
from models.atlas.atlas_tables import AtlasConcept, AtlasDecisionLink, AtlasEdge
from models.atlas.atlas_words_checking import plain_words
from models.atlas.atlas_words_subject import WordsSubject
from models.core.db import db, lock_name, now
from models.core.errors import Conflict, Invalid, NotFound
from models.projects import ProjectCaller
from models.projects.project import Project
from models.projects.project_access import own_project
from models.projects.project_ids import fits

UNRELATED = "no"
MAX_CURRENT = 2_000
"""Fields and pairs of a project that were ever corrected."""
MAX_LISTED = 200


class CorrectionReplaced(Conflict):
    """A correction cannot be undone, because a newer one holds."""

    code = "correction_replaced"

    def __init__(self) -> None:
        super().__init__("This was corrected again since. Undo the newest correction first.")


def correct(
    caller: ProjectCaller, project_id: str, subject: WordsSubject, changes: Mapping[str, str | None]
) -> list[AtlasCorrection]:
    """Correct fields of a subject; None or nothing takes the correction of a field back. What is so already changes nothing. Returns what is
    new. Flushes; locks the corrections of the project. Raises NotFound, Forbidden, Invalid (422)."""
    own_project(caller, project_id, "edit_projects")
    _lock(project_id)
    wanted = {field: _checked(subject, field, value) for field, value in changes.items()}
    own = _own_values(project_id, subject)
    made = []
    for field, value in wanted.items():
        row = _current(project_id, subject.key, "", field)
        held = row.value if row else None
        if value == own.get(field):
            value = None
        if value != held:
            made.append(_store(project_id, caller, subject.key, "", field, value, row))
    db.session.flush()
    return made


def deny_relation(
    caller: ProjectCaller, project_id: str, subject: WordsSubject, other_id: str
) -> AtlasCorrection | None:
    """Say that two concepts are not related: the map shows no dependency, change together or decision that connects them. None if somebody said
    so. Flushes; locks the corrections of the project. Raises NotFound, Forbidden, Invalid (422)."""
    own_project(caller, project_id, "edit_projects")
    if subject.concept is None or subject.definition is not None:
        raise Invalid("Only two parts of the map can be not related.")
    _lock(project_id)
    one, other = pair(subject.key, other_id.replace("\0", ""))
    row = _current(project_id, one, other, "related")
    if row is not None and row.value is not None:
        return None
    if not _connected(project_id, one, other):
        message = "The map says nothing that connects these two. What a part contains follows from its path."
        raise Invalid(message, fields={"not_related_to": message})
    made = _store(project_id, caller, one, other, "related", UNRELATED, row)
    db.session.flush()
    return made


def undo_correction(caller: ProjectCaller, project_id: str, id: str) -> AtlasCorrection:
    """Let what held before a correction hold again: a correction of its own, so that it can be undone too. Flushes; locks the corrections of
    the project. Raises NotFound, Forbidden, CorrectionReplaced (409)."""
    own_project(caller, project_id, "edit_projects")
    _lock(project_id)
    row = db.session.get(AtlasCorrection, id, populate_existing=True) if fits(id) else None
    if row is None or row.project_id != project_id:
        raise NotFound("The project has no such correction.")
    if not row.current:
        raise CorrectionReplaced
    made = _store(project_id, caller, row.subject, row.other, row.field, row.before, row)
    db.session.flush()
    return made


def corrections_in(project: Project, key: str | None = None) -> Sequence[AtlasCorrection]:
    """The newest corrections, of one subject with `key`, at most `MAX_LISTED`."""
    query = select(AtlasCorrection).where(AtlasCorrection.project_id == project.id)
    if key is not None:
        query = query.where(or_(AtlasCorrection.subject == key, AtlasCorrection.other == key))
    newest = query.order_by(AtlasCorrection.created_at.desc(), AtlasCorrection.id.desc())
    return db.session.scalars(newest.limit(MAX_LISTED)).all()


def _lock(project_id: str) -> None:
    lock_name(f"atlas corrections {project_id}")


def _current(project_id: str, subject: str, other: str, field: str) -> AtlasCorrection | None:
    query = select(AtlasCorrection).where(
        AtlasCorrection.project_id == project_id,
        AtlasCorrection.subject == subject,
        AtlasCorrection.other == other,
        AtlasCorrection.field == field,
        AtlasCorrection.current,
    )
    return db.session.scalars(query.execution_options(populate_existing=True)).one_or_none()


def _store(
    project_id: str,
    caller: ProjectCaller,
    subject: str,
    other: str,
    field: str,
    value: str | None,
    former: AtlasCorrection | None,
) -> AtlasCorrection:
    """Add a correction in the place of `former`. Raises Invalid if too many hold."""
    if former is None:
        held = select(func.count()).where(AtlasCorrection.project_id == project_id, AtlasCorrection.current)
        if (db.session.scalar(held) or 0) >= MAX_CURRENT:
            raise Invalid(f"A project has at most {MAX_CURRENT:,} corrections.")
    else:
        db.session.execute(
            update(AtlasCorrection).where(AtlasCorrection.id == former.id).values(current=False)
        )
    made = AtlasCorrection(
        project_id=project_id,
        subject=subject,
        other=other,
        field=field,
        value=value,
        before=former.value if former else None,
        current=True,
        user_id=caller.user_id,
        created_at=now(),
    )
    db.session.add(made)
    return made


def _checked(subject: WordsSubject, field: str, value: str | None) -> str | None:
    """A value as it is stored. Raises Invalid."""
    if field != "description" and (subject.concept is None or subject.definition is not None):
        raise Invalid(
            f"Only the description of a {subject.kind} can be corrected.",
            fields={field: "This cannot be corrected here."},
        )
    lines = (value or "").replace("\r\n", "\n").split("\n") if field == "description" else [value or ""]
    found = "\n".join(plain_words(line, len(line)) for line in lines).strip()
    if len(found) > CORRECTABLE[field]:
        message = f"Write at most {CORRECTABLE[field]:,} characters."
        raise Invalid(f"'{field}': {message}", fields={field: message})
    return found or None


def _own_values(project_id: str, subject: WordsSubject) -> Mapping[str, str | None]:
    """What the map itself says of a concept."""
    if subject.concept is None or subject.definition is not None:
        return {}
    # columns: the object may have been corrected
    query = select(AtlasConcept.name, AtlasConcept.description, AtlasConcept.type)
    row = db.session.execute(
        query.where(AtlasConcept.project_id == project_id, AtlasConcept.id == subject.key)
    ).one_or_none()
    return dict(row._mapping) if row else {}


def _connected(project_id: str, one: str, other: str) -> bool:
    """Whether an edge that is no `contains`, or a link to a decision, connects two concepts."""
    ends = (AtlasEdge.from_concept_id, AtlasEdge.to_concept_id)
    edges = select(AtlasEdge.id).where(
        AtlasEdge.project_id == project_id,
        AtlasEdge.type != "contains",
        or_(*((ends[0] == a) & (ends[1] == b) for a, b in ((one, other), (other, one)))),
    )
    links = select(AtlasDecisionLink.id).where(
        AtlasDecisionLink.project_id == project_id,
        or_(
            *(
                (AtlasDecisionLink.decision_id == a.removeprefix(DECISION))
                & (AtlasDecisionLink.concept_id == b)
                for a, b in ((one, other), (other, one))
            )
        ),
    )
    return any(db.session.scalar(query.limit(1)) is not None for query in (edges, links))
