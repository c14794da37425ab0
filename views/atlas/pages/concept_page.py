"""One part of a project: what it is, what it contains, uses and is used by, what changes together with it, and what a change may break."""

from flask.typing import ResponseReturnValue

from models.atlas import dependents_of, outline_of
from models.atlas.atlas_reading import freshness, surroundings
from models.atlas.atlas_words_subject import subject_of
from models.atlas.capability_concepts import bases_of
from models.atlas.diagrams import shown_concept
from views.atlas.pages.atlas_blueprint import concept_href, knowledge_page, line_href
from views.atlas.pages.words_panel import words_panel
from views.projects.pages.project_blueprint import asked, viewed_project
from views.web.htmx import render

LAYERS = {
    "narrative": "Decision",
    "capability": "Capability",
    "system": "System",
    "module": "Module",
    "code": "File",
}
MAX_DEPENDENTS = 50
"""Of what a change may break, beyond what uses it itself."""


@knowledge_page("/knowledge/concept")
def concept(project_id: str) -> ResponseReturnValue:
    """A concept. Query: its `id`. Raises NotFound, Forbidden."""
    project = viewed_project(project_id)
    found, fresh = shown_concept(project.id, asked("id")), freshness(project)
    dependents = dependents_of(project.id, found.id) if found.layer in ("module", "code") else []
    further = [each for each in dependents if each.steps > 1]
    return render(
        "atlas/concept.html",
        project=project,
        fresh=fresh,
        concept=found,
        layer=LAYERS[found.layer],
        path=found.id.removeprefix("code:") if found.layer == "code" else None,
        around=surroundings(found),
        panel=None if found.layer == "narrative" else words_panel(project, subject_of(project, found.id)),
        outline=outline_of(project, found),
        bases=bases_of(found) if found.layer == "capability" else [],
        further=further[:MAX_DEPENDENTS],
        further_count=len(further),
        concept_href=lambda id: concept_href(project, id),
        line_href=lambda path, line: line_href(project, path, line, fresh.described_at),
    )
