"""The map of a project as text for agents, in the form of llms.txt, within a budget of tokens: what matters most comes first."""

from collections.abc import Iterator

from sqlalchemy import select

from models.atlas.atlas_reading import WholeMap, whole_map
from models.atlas.atlas_tables import AtlasConcept, CodeFacts
from models.core.db import db
from models.gateway import tokens
from models.projects.project import Project
from models.projects.snapshots.stored_objects import among_hashes

LEAST, MOST, USUAL = 200, 50_000, 4_000
"""Tokens of an export."""
FILES_OF_MODULE, SYMBOLS_OF_FILE = 12, 10
MAX_OUTLINED = 400
"""Files whose symbols are named."""


def atlas_text(project: Project, budget: int = USUAL) -> str:
    """The map in at most `budget` tokens: systems and modules by importance, with their files, what these define, and what modules depend
    on. Whoever calls it checks access."""
    lines, left = [], max(LEAST, min(budget, MOST))
    for line in _lines(project, whole_map(project)):
        size = tokens.count(line) + 1
        if size > left:
            lines.append("…")
            break
        lines.append(line)
        left -= size
    return "\n".join(lines) + "\n"


def _lines(project: Project, found: WholeMap) -> Iterator[str]:
    yield f"# {_plain(project.name)}"
    summary = (project.brief or {}).get("problem")
    if isinstance(summary, str) and summary.strip():
        yield f"\n> {_plain(summary)[:500]}"
    if found.index is None:
        yield "\nThis project is not indexed yet."
        return
    yield f"\n{found.index.files:,} files. Numbers in brackets say how much depends on a part, from 0 to 100."
    able = [each for each in found.concepts if each.layer == "capability"]
    if able:
        yield "\n## What it can do, in the words of a model"
    for each in able:
        yield f"- {_plain(each.name)}: {_plain(each.description or '')}"
    by_id = {each.id: each for each in found.concepts}
    inside: dict[str, list[AtlasConcept]] = {}
    uses: dict[str, list[str]] = {}
    for edge in found.edges:
        other = by_id.get(edge.to_concept_id)
        if edge.type == "contains" and other is not None:
            inside.setdefault(edge.from_concept_id, []).append(other)
        elif edge.type == "depends_on" and other is not None and other.layer == "module":
            uses.setdefault(edge.from_concept_id, []).append(other.name)
    symbols = _symbols(project, found)
    for system in _ranked([each for each in found.concepts if each.layer == "system"]):
        yield f"\n## {_plain(system.name)}"
        for module in _ranked(inside.get(system.id, [])):
            needs = f"; uses {', '.join(sorted(uses[module.id])[:8])}" if module.id in uses else ""
            yield f"\n### {_plain(module.name)} [{module.importance}]{needs}"
            files = _ranked(inside.get(module.id, []))
            for file in files[:FILES_OF_MODULE]:
                names = symbols.get(file.sha256 or "", [])
                yield f"- {_plain(file.id.removeprefix('code:'))}{': ' + ', '.join(names) if names else ''}"
            if len(files) > FILES_OF_MODULE:
                yield f"- and {len(files) - FILES_OF_MODULE:,} more files"


def _symbols(project: Project, found: WholeMap) -> dict[str, list[str]]:
    """What the most important files define at their top, by their hash."""
    files = _ranked([each for each in found.concepts if each.sha256])[:MAX_OUTLINED]
    query = select(CodeFacts.sha256, CodeFacts.facts["defs"]).where(
        CodeFacts.account_id == project.account_id,
        CodeFacts.parsed,
        among_hashes(CodeFacts.sha256, {each.sha256 or "" for each in files}),
    )
    return {
        sha256: [name for kind, name, *_ in defs if "." not in name and kind != "value"][:SYMBOLS_OF_FILE]
        for sha256, defs in db.session.execute(query)
    }


def _ranked(concepts: list[AtlasConcept]) -> list[AtlasConcept]:
    return sorted(concepts, key=lambda each: (-each.importance, each.id))


def _plain(text: str) -> str:
    """On one line: names of files come from others, and may not write headings."""
    return " ".join(text.split())[:300]
