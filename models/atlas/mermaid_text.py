"""Writes diagrams as Mermaid text, to be copied elsewhere. Labels are names that strangers chose: none may end its line or its quotes."""

from models.atlas.diagrams import ProjectDiagram

MAX_LABEL = 80
_SIGNS = frozenset('"|[]{}()<>;#`\\%&')
"""What Mermaid would read as its own: in labels each is a space."""


def mermaid_of(found: ProjectDiagram) -> str:
    """The diagram as Mermaid text."""
    short = {each.id: f"n{at}" for at, each in enumerate(found.nodes)}
    if found.type == "sequence":
        lines = [f"  participant {short[each.id]} as {_plain(each.label)}" for each in found.nodes]
        lines += [f"  {short[each.start]}->>{short[each.end]}: {_plain(each.label)}" for each in found.edges]
        return "\n".join(("sequenceDiagram", *lines))
    lines = []
    groups = dict.fromkeys(each.group for each in found.nodes) if found.type == "component" else {None: None}
    for at, group in enumerate(groups):
        if group:
            lines.append(f'  subgraph g{at}["{_plain(group)}"]')
        lines += [
            f'  {short[each.id]}["{_plain(each.label)}"]'
            for each in found.nodes
            if group is None or each.group == group
        ]
        if group:
            lines.append("  end")
    for edge in found.edges:
        label = f"|{_plain(edge.label)}|" if edge.label else ""
        lines.append(f"  {short[edge.start]} -->{label} {short[edge.end]}")
    return "\n".join(("flowchart LR", *lines))


def _plain(text: str) -> str:
    """A label: what is printable, in one line, without the signs of Mermaid. Never empty, as a label may not be."""
    kept = "".join(" " if each in _SIGNS or not each.isprintable() else each for each in text)
    return " ".join(kept.split())[:MAX_LABEL].strip() or "–"
