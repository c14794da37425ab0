"""Search in the map of a project: by words, or for a symbol with everyone who uses it."""

from flask.typing import ResponseReturnValue

from models.atlas import search_atlas, uses_of
from models.atlas.atlas_reading import freshness
from models.atlas.atlas_search import MAX_QUERY
from models.projects.code_highlighting import code_lines
from views.atlas.pages.atlas_blueprint import concept_href, knowledge_page, line_href
from views.projects.pages.project_blueprint import asked, viewed_project
from views.web.htmx import render

MODES = (("words", "Code and documents"), ("symbol", "Who uses a symbol"))
SHOWN = 12


@knowledge_page("/knowledge/search")
def find(project_id: str) -> ResponseReturnValue:
    """The search. Query: `q`, and `mode`, `words` or `symbol`. Raises NotFound, Forbidden."""
    project = viewed_project(project_id)
    fresh = freshness(project)
    words = asked("q").strip()[:MAX_QUERY]
    mode = "symbol" if asked("mode") == "symbol" else "words"
    hits = search_atlas(project, words, SHOWN) if words and mode == "words" else []
    return render(
        "atlas/find.html",
        partial="atlas/_find.html",
        project=project,
        fresh=fresh,
        words=words,
        mode=mode,
        modes=MODES,
        hits=[(hit, code_lines(hit.path or "", hit.excerpt)) for hit in hits],
        uses=uses_of(project, words) if words and mode == "symbol" else None,
        concept_href=lambda id: concept_href(project, id),
        line_href=lambda path, line: line_href(project, path, line, fresh.described_at),
    )
