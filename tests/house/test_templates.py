"""Rules for templates and styles: content security policy, progressive enhancement, escaping, components, URLs, tokens."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from jinja2 import Environment, nodes

from models.core.settings import ROOT

TEMPLATES = ROOT / "templates"
FILES = sorted([*TEMPLATES.rglob("*.html"), *TEMPLATES.rglob("*.xml")])
CSS = sorted((ROOT / "static/css").rglob("*.css"))
WEB = [file for file in FILES if file.suffix == ".html" and "emails" not in file.parts]
VIEWS = sorted((ROOT / "views").rglob("*.py"))

TAG = re.compile(r"<([a-z][a-z0-9-]*)((?:\{[{%].*?[%}]\}|[^>{]|\{(?![{%]))*)>", re.DOTALL)
REQUESTS = re.compile(r"\bhx-(get|post|put|patch|delete)=")
ADDRESS = re.compile(r'\s(?:href|action|formaction|src|hx-(?:get|post|put|patch|delete))="([^"]*)"')
PAGES = re.compile(r"/(?:calls|docs|login|onboard|profile|publishers|runs|static|store|uploads)\b(?!/<)")
MARKUP = re.compile(r"</[a-z]|/>|<!--|<[a-z][a-z0-9-]*\s+[a-z:-]+=")


def name(file: Path) -> str:
    return str(file.relative_to(ROOT))


def tags(file: Path) -> Iterator[tuple[str, str]]:
    """(tag, attributes) of every element in a template, without comments."""
    text = re.sub(r"\{#.*?#\}", "", file.read_text(encoding="utf-8"), flags=re.DOTALL)
    yield from TAG.findall(text)


@pytest.mark.parametrize("file", WEB, ids=name)
def test_templates_comply_with_the_content_security_policy(file: Path) -> None:
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
        assert tag in ("a", "form"), f"only links and forms may send requests: {whole}"
        if tag == "a":
            assert "href=" in attributes, whole
            assert verbs == ["get"], f"links must not change state: {whole}"
        if "post" in verbs:
            assert 'method="post"' in attributes, whole


@pytest.mark.parametrize("file", WEB, ids=name)
def test_every_post_form_has_the_csrf_token_and_acts_once(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    for form in re.findall(r"<form\b.*?</form>", text, re.DOTALL):
        if 'method="post"' in form:
            assert "{{ csrf() }}" in form, form[:200]


@pytest.mark.parametrize("file", FILES, ids=name)
def test_only_constants_are_marked_safe(file: Path) -> None:
    tree = Environment(autoescape=True).parse(file.read_text(encoding="utf-8"))
    for found in tree.find_all(nodes.Filter):
        if found.name == "safe":
            constant = isinstance(found.node, nodes.Const)
            assert constant, f"{file.name}:{found.lineno}: |safe on what is not a constant"
    assert not list(tree.find_all(nodes.EvalContextModifier)), "autoescape stays on"


@pytest.mark.parametrize("file", WEB, ids=name)
def test_pages_extend_a_layout_and_fragments_do_not(file: Path) -> None:
    if file.parent.name in ("components", "layouts"):
        return
    extends = "{% extends" in file.read_text(encoding="utf-8")
    assert extends != file.name.startswith("_"), name(file)


def parsed(file: Path) -> nodes.Template:
    return Environment(autoescape=True).parse(file.read_text(encoding="utf-8"))


def imports(tree: nodes.Template) -> dict[str, str]:
    """The names that a template imports, and their files."""
    return {
        each[1] if isinstance(each, tuple) else each: statement.template.value
        for statement in tree.find_all(nodes.FromImport)
        if isinstance(statement.template, nodes.Const)
        for each in statement.names
    }


COMPONENTS = {
    macro.name
    for file in (TEMPLATES / "components").glob("*.html")
    for macro in parsed(file).find_all(nodes.Macro)
    if not macro.name.startswith("_")
}


def calls(tree: nodes.Template) -> Iterator[tuple[str, nodes.Call]]:
    for call in tree.find_all(nodes.Call):
        if isinstance(call.node, nodes.Name):
            yield call.node.name, call


@pytest.mark.parametrize("file", FILES, ids=name)
def test_template_imports_the_components_it_calls_and_no_others(file: Path) -> None:
    tree = parsed(file)
    imported = set(imports(tree))
    own = {macro.name for macro in tree.find_all(nodes.Macro)}
    assert {called for called, _ in calls(tree)} & COMPONENTS <= imported | own
    assert imported <= {each.name for each in tree.find_all(nodes.Name) if each.ctx == "load"}


def test_every_icon_exists_in_the_sprite() -> None:
    """Browsers silently ignore missing icons."""
    drawn = set(
        re.findall(r'<symbol id="([^"]+)"', (ROOT / "static/img/icons.svg").read_text(encoding="utf-8"))
    )
    named: set[str] = set(
        re.findall(
            r'Provider\("\w+", [^,]+, "(\w+)"',
            (ROOT / "views/accounts/pages/sign_in_providers.py").read_text(),
        )
    )
    for file in WEB:
        for called, call in calls(parsed(file)):
            places = [pair.value for pair in call.kwargs if pair.key == "icon_name"]
            places += call.args[:1] if called == "icon" else call.args[1:2] if called == "icon_button" else []
            for place in places:
                chosen = [place.expr1, place.expr2] if isinstance(place, nodes.CondExpr) else [place]
                named |= {each.value for each in chosen if isinstance(each, nodes.Const) and each.value}
    assert {"check", "right", "x"} < named
    assert named <= drawn


@pytest.mark.parametrize("file", [file for file in FILES if "emails" not in file.parts], ids=name)
def test_templates_build_urls_with_url_for(file: Path) -> None:
    for tag, attributes in tags(file):
        for address in ADDRESS.findall(attributes):
            written = re.sub(r"\{\{.*?\}\}|\{%.*?%\}", "", address)
            assert re.fullmatch(r"(#.*|mailto:|https://.*)?", written), f"<{tag}{attributes}>"
    for text in parsed(file).find_all(nodes.Const):
        if isinstance(text.value, str):
            assert not PAGES.match(text.value), f"{file.name}:{text.lineno}: {text.value}"


def written(file: Path) -> Iterator[ast.Constant]:
    """String constants of a module, without docstrings and route paths."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    left_out: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            left_out.add(node.value)
        for decorator in getattr(node, "decorator_list", ()):
            left_out.update(ast.walk(decorator))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in left_out:
            yield node


@pytest.mark.parametrize("file", VIEWS, ids=name)
def test_views_contain_no_markup(file: Path) -> None:
    assert "markupsafe" not in file.read_text(encoding="utf-8")
    for text in written(file):
        assert not MARKUP.search(text.value), f"{file.name}:{text.lineno}: {text.value}"


@pytest.mark.parametrize("file", VIEWS, ids=name)
def test_views_build_urls_with_url_for(file: Path) -> None:
    for text in written(file):
        assert not PAGES.match(text.value), f"{file.name}:{text.lineno}: {text.value}"


@pytest.mark.parametrize("file", CSS, ids=name)
def test_colours_are_defined_in_tokens_only(file: Path) -> None:
    text = re.sub(r"/\*.*?\*/", "", file.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert not re.search(r"#[0-9a-f]{3,8}\b(?![^{}]*\{)|\brgba?\(|\bhsla?\(", text), name(file)
    drawings = {"tokens.css", "avatar.css", "gate.css", "landing.css", "chart.css", "base.css"}
    assert file.name in drawings or "oklch(" not in text, name(file)
    assert "!important" not in text or file.name in {"base.css", "trace.css", "progress.css"}, name(file)


@pytest.mark.parametrize("file", sorted((TEMPLATES / "layouts").glob("[!_]*.html")), ids=name)
def test_layouts_shadow_no_context_variables(file: Path) -> None:
    tree = Environment(autoescape=True).parse(file.read_text(encoding="utf-8"))
    taken = [node for node in tree.body if isinstance(node, nodes.Assign | nodes.FromImport | nodes.Macro)]
    if file.name != "base.html":
        assert taken == []


FORMATTED = re.compile(
    r"strftime|isoformat|['\"]\{:[^}]*[,.%][^}]*\}['\"]\.format|(?<!=\"\{\{ )'%\.\d+f[^']*'\|format"
)
PAGE_MODULES = [
    file
    for file in VIEWS
    if (
        "pages" in file.parts
        or file.parent.name == "web"
        or file.name == "pages.py"
        or file.name.endswith("_page.py")
    )
    and file.name not in ("format.py", "viewer_locale.py", "logs.py", "body.py", "openapi.py")
]


@pytest.mark.parametrize("file", FILES + sorted(TEMPLATES.rglob("*.txt")), ids=name)
def test_templates_do_not_format_times_and_numbers_themselves(file: Path) -> None:
    found = FORMATTED.search(file.read_text(encoding="utf-8"))
    assert not found, f"use a filter of views/web/format.py, which knows the viewer: {found and found[0]}"


@pytest.mark.parametrize("file", PAGE_MODULES, ids=name)
def test_pages_do_not_format_times_and_numbers_themselves(file: Path) -> None:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FormattedValue) and node.format_spec is not None:
            spec = "".join(
                str(part.value) for part in node.format_spec.values if isinstance(part, ast.Constant)
            )  # type: ignore[attr-defined]
            where = f"{file.name}:{node.lineno}: use views/web/format.py, which knows the viewer"
            assert spec in ("%Y-%m", "%Y-%m-%d") or not re.search(r"[,%]|\.\d*f", spec), where
        if isinstance(node, ast.Attribute) and node.attr == "strftime":
            raise AssertionError(
                f"{file.name}:{node.lineno}: use views/web/format.py, which knows the viewer"
            )
