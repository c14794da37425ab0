"""House rules of templates and styles, kept by machine: strict policy, links and forms before htmx, escaping, tokens."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from jinja2 import Environment, nodes

from models.settings import ROOT

TEMPLATES = ROOT / "templates"
FILES = sorted(TEMPLATES.rglob("*.html"))
CSS = sorted((ROOT / "static/css").rglob("*.css"))
WEB = [file for file in FILES if "emails" not in file.parts]

TAG = re.compile(r"<([a-z][a-z0-9-]*)((?:\{[{%].*?[%}]\}|[^>{]|\{(?![{%]))*)>", re.DOTALL)
REQUESTS = re.compile(r"\bhx-(get|post|put|patch|delete)=")


def name(file: Path) -> str:
    return str(file.relative_to(ROOT))


def tags(file: Path) -> Iterator[tuple[str, str]]:
    """(tag, its attributes) of every element that a template writes, its comments left out."""
    text = re.sub(r"\{#.*?#\}", "", file.read_text(encoding="utf-8"), flags=re.DOTALL)
    yield from TAG.findall(text)


@pytest.mark.parametrize("file", WEB, ids=name)
def test_nothing_the_content_policy_refuses(file: Path) -> None:
    for tag, attributes in tags(file):
        assert not re.search(r"\s(style|on[a-z]+|hx-on[^\s=]*)\s*=", attributes), f"<{tag}{attributes}>"
        assert "javascript:" not in attributes
        assert tag != "style"
        assert tag != "script" or "src=" in attributes


@pytest.mark.parametrize("file", WEB, ids=name)
def test_htmx_is_added_to_links_and_forms_that_work_without_it(file: Path) -> None:
    for tag, attributes in tags(file):
        verbs = REQUESTS.findall(attributes)
        if not verbs or "every " in attributes or 'hx-trigger="load' in attributes:
            continue
        whole = f"<{tag}{attributes}>"
        assert tag in ("a", "form"), f"only links and forms may ask: {whole}"
        if tag == "a":
            assert "href=" in attributes, whole
            assert verbs == ["get"], f"a link changes nothing: {whole}"
        if "post" in verbs:
            assert 'method="post"' in attributes, whole


@pytest.mark.parametrize("file", WEB, ids=name)
def test_every_form_that_changes_something_carries_its_token(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    for form in re.findall(r"<form\b.*?</form>", text, re.DOTALL):
        if 'method="post"' in form:
            assert "csrf(" in form or "csrf_token" in form, form[:200]


@pytest.mark.parametrize("file", FILES, ids=name)
def test_only_what_is_written_in_the_template_goes_unescaped(file: Path) -> None:
    tree = Environment(autoescape=True).parse(file.read_text(encoding="utf-8"))
    for found in tree.find_all(nodes.Filter):
        if found.name == "safe":
            kept = isinstance(found.node, nodes.Const)
            assert kept, f"{file.name}:{found.lineno}: |safe on what is not a constant"
    assert not list(tree.find_all(nodes.EvalContextModifier)), "autoescape stays on"


@pytest.mark.parametrize("file", WEB, ids=name)
def test_pages_extend_a_layout_and_fragments_do_not(file: Path) -> None:
    if file.parent.name in ("components", "layouts"):
        return
    extends = "{% extends" in file.read_text(encoding="utf-8")
    assert extends != file.name.startswith("_"), name(file)


@pytest.mark.parametrize("file", CSS, ids=name)
def test_colours_are_named_in_the_tokens_only(file: Path) -> None:
    text = re.sub(r"/\*.*?\*/", "", file.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert not re.search(r"#[0-9a-f]{3,8}\b(?![^{}]*\{)|\brgba?\(|\bhsla?\(", text), name(file)
    drawings = {"tokens.css", "avatar.css", "gate.css", "landing.css", "chart.css", "base.css"}
    assert file.name in drawings or "oklch(" not in text, name(file)
    assert "!important" not in text or file.name in {"base.css", "trace.css", "progress.css"}, name(file)


@pytest.mark.parametrize("file", sorted((TEMPLATES / "layouts").glob("[!_]*.html")), ids=name)
def test_layouts_hide_no_name_that_a_page_is_given(file: Path) -> None:
    tree = Environment(autoescape=True).parse(file.read_text(encoding="utf-8"))
    taken = [node for node in tree.body if isinstance(node, nodes.Assign | nodes.FromImport | nodes.Macro)]
    if file.name != "base.html":
        assert taken == []
