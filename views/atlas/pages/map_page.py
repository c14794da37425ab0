"""The map of a project: one of four diagrams, the same as a table and as text, and how fresh the map is."""

from flask import url_for
from flask.typing import ResponseReturnValue

from models.atlas.atlas_indexing import request_index
from models.atlas.atlas_reading import freshness
from models.atlas.atlas_tables import DIAGRAMS, AtlasConcept
from models.atlas.atlas_words_subject import subject_of
from models.atlas.capability_concepts import bases_of, capabilities_of
from models.atlas.diagram_layout import laid_out
from models.atlas.diagrams import DiagramNode, diagram_of, shown_concept
from models.atlas.mermaid_text import mermaid_of
from models.core.db import db
from models.projects import Project
from views.atlas.pages.atlas_blueprint import concept_href, knowledge_form, knowledge_page, line_href
from views.atlas.pages.words_panel import WordsPanel, words_panel
from views.projects.pages.project_blueprint import asked, viewed_project, viewer_may
from views.web.htmx import render, see_other, toast, wants_fragment

NAMES = {"dependency": "Dependencies", "component": "Components", "flow": "Flow", "sequence": "Sequence"}


@knowledge_page("/knowledge")
def knowledge(project_id: str) -> ResponseReturnValue:
    """The map. Query: `diagram`, and of which `concept`; the dependencies of the whole project by default. Raises NotFound, Forbidden."""
    project = viewed_project(project_id)
    fresh = freshness(project)
    kind = asked("diagram") if asked("diagram") in DIAGRAMS else "dependency"
    about = shown_concept(project.id, asked("concept")) if asked("concept") else None
    diagram = diagram_of(project, kind, about.id if about else None) if fresh.index else None
    return render(
        "atlas/map.html",
        partial="atlas/_map.html",
        project=project,
        fresh=fresh,
        kind=kind,
        names=NAMES,
        about=about,
        diagram=diagram,
        drawing=laid_out(diagram) if diagram else None,
        mermaid=mermaid_of(diagram) if diagram and diagram.nodes else "",
        capabilities=[] if about else [(each, bases_of(each)) for each in capabilities_of(project.id)],
        concept_href=lambda id: concept_href(project, id),
        node_href=lambda node: _node_href(project, node, fresh.described_at),
        run_href=url_for("runs.run", run_id=diagram.run_id) if diagram and diagram.run_id else None,
        panel=_panel(project, about) if fresh.index and not wants_fragment() else None,
        may_index=viewer_may("edit_projects"),
    )


@knowledge_form("/knowledge/index")
def index_now(project_id: str) -> ResponseReturnValue:
    """Ask for an index of the files as they are now; back to the map. Raises NotFound, Forbidden."""
    project = viewed_project(project_id, "edit_projects")
    if not freshness(project).has_files:
        toast("There are no files yet. Push a snapshot, then index it.", "bad")
        return see_other(url_for("atlas.knowledge", project_id=project.id))
    request_index(project.id, soon=True)
    db.session.commit()
    toast("The map is brought up to date. It takes a few seconds.")
    return see_other(url_for("atlas.knowledge", project_id=project.id))


def _panel(project: Project, about: AtlasConcept | None) -> WordsPanel | None:
    """The description of the project, or of the concept that the map is about; decisions have none."""
    if about is not None and about.layer == "narrative":
        return None
    return words_panel(project, subject_of(project, about.id if about else None))


def _node_href(project: Project, node: DiagramNode, at: str | None) -> str | None:
    """Where a node leads: to its line, or to the page of its concept."""
    if node.place is not None:
        return line_href(project, *node.place, at)
    return concept_href(project, node.concept_id) if node.concept_id else None
