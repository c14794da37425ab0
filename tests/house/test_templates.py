"""Rules for templates and styles: content security policy, progressive enhancement, escaping, components, URLs, tokens."""

import ast
import re
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

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
TITLE_ENDS = (" · Stoa", " · {{ place }}", "| Stoa{% endif %}")
"""The last is the store's, by the contract."""
QUAINT = re.compile(
    r"\b(?:anew|(?:is|are|was|were) told|(?:half|95 ?%) within)\b|column\('(?:Made|Ends|Gone)'"
)
MARKUP = re.compile(r"</[a-z]|/>|<!--|<[a-z][a-z0-9-]*\s+[a-z:-]+=")


def check(files: Iterable[Path], find: Callable[[Path], Iterator[str]]) -> None:
    """Fail with `file: what` for everything that `find` reports. All files are one test: a test for each would take longer
    than the rules."""
    found = [f"{file.relative_to(ROOT)}: {what}" for file in files for what in find(file)]
    assert not found, "\n".join(found)


@cache
def source(file: Path) -> str:
    return file.read_text(encoding="utf-8")


@cache
def tags(file: Path) -> list[tuple[str, str]]:
    """(tag, attributes) of every element in a template, without comments."""
    return TAG.findall(re.sub(r"\{#.*?#\}", "", source(file), flags=re.DOTALL))


def test_templates_comply_with_the_content_security_policy() -> None:
    def find(file: Path) -> Iterator[str]:
        for tag, attributes in tags(file):
            inline = re.search(r"\s(style|on[a-z]+|hx-on[^\s=]*)\s*=", attributes)
            script = tag == "script" and "src=" not in attributes
            if inline or script or tag == "style" or "javascript:" in attributes:
                yield f"<{tag}{attributes}>"

    check(WEB, find)


def test_titles_and_words_have_one_style() -> None:
    """`Page · Stoa` or `Page · {{ place }}`, by the rule of docs/architecture.md; the words that users of Stripe or Grafana know."""

    def find(file: Path) -> Iterator[str]:
        text = re.sub(r"\{#.*?#\}", "", source(file), flags=re.DOTALL)
        titles = re.findall(r"\{% block title %\}(.*?)\{% endblock %\}|<title>([^<]*)</title>", text)
        for title in (block or element for block, element in titles):
            if not title.endswith(TITLE_ENDS) and "block title" not in title:
                yield f"title {title}"
        yield from (f"“{found[0]}”" for found in QUAINT.finditer(text))

    ours = [file for file in WEB if file.parent.name != "demo"]
    check(ours, find)


def test_htmx_is_added_to_links_and_forms_that_work_without_it() -> None:
    def find(file: Path) -> Iterator[str]:
        for tag, attributes in tags(file):
            verbs = REQUESTS.findall(attributes)
            if not verbs or "every " in attributes or 'hx-trigger="load' in attributes:
                continue
            whole = f"<{tag}{attributes}>"
            if tag not in ("a", "form"):
                yield f"only links and forms may send requests: {whole}"
            if tag == "a" and "href=" not in attributes:
                yield f"does not work without htmx: {whole}"
            if tag == "a" and verbs != ["get"]:
                yield f"links must not change state: {whole}"
            if "post" in verbs and 'method="post"' not in attributes:
                yield f"does not work without htmx: {whole}"

    check(WEB, find)


def test_every_post_form_has_the_csrf_token_and_acts_once() -> None:
    def find(file: Path) -> Iterator[str]:
        for form in re.findall(r"<form\b.*?</form>", source(file), re.DOTALL):
            if 'method="post"' in form and "{{ csrf() }}" not in form:
                yield form[:200]

    check(WEB, find)


def test_only_constants_are_marked_safe() -> None:
    def find(file: Path) -> Iterator[str]:
        for found in parsed(file).find_all(nodes.Filter):
            if found.name == "safe" and not isinstance(found.node, nodes.Const):
                yield f"line {found.lineno}: |safe on what is not a constant"
        if any(parsed(file).find_all(nodes.EvalContextModifier)):
            yield "autoescape stays on"

    check(FILES, find)


def test_pages_extend_a_layout_and_fragments_do_not() -> None:
    def find(file: Path) -> Iterator[str]:
        fragment = file.name.startswith("_")
        if ("{% extends" in source(file)) == fragment:
            yield "a fragment that extends a layout" if fragment else "a page that extends none"

    check([file for file in WEB if file.parent.name not in ("components", "layouts")], find)


@cache
def parsed(file: Path) -> nodes.Template:
    return Environment(autoescape=True).parse(source(file))


def imports(tree: nodes.Template) -> dict[str, str]:
    """The names that a template imports, and their files."""
    return {
        each[1] if isinstance(each, tuple) else each: statement.template.value
        for statement in tree.find_all(nodes.FromImport)
        if isinstance(statement.template, nodes.Const)
        for each in statement.names
    }


def calls(tree: nodes.Template) -> Iterator[tuple[str, nodes.Call]]:
    for call in tree.find_all(nodes.Call):
        if isinstance(call.node, nodes.Name):
            yield call.node.name, call


def test_template_imports_the_components_it_calls_and_no_others() -> None:
    components = {
        macro.name
        for file in (TEMPLATES / "components").glob("*.html")
        for macro in parsed(file).find_all(nodes.Macro)
        if not macro.name.startswith("_")
    }

    def find(file: Path) -> Iterator[str]:
        tree = parsed(file)
        imported = set(imports(tree))
        own = {macro.name for macro in tree.find_all(nodes.Macro)}
        if missing := {called for called, _ in calls(tree)} & components - imported - own:
            yield f"calls {sorted(missing)} without an import"
        if unused := imported - {each.name for each in tree.find_all(nodes.Name) if each.ctx == "load"}:
            yield f"imports {sorted(unused)} and uses none of it"

    assert components
    check(FILES, find)


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


def test_templates_build_urls_with_url_for() -> None:
    def find(file: Path) -> Iterator[str]:
        for tag, attributes in tags(file):
            for address in ADDRESS.findall(attributes):
                literal = re.sub(r"\{\{.*?\}\}|\{%.*?%\}", "", address)
                if not re.fullmatch(r"(#.*|mailto:|https://.*)?", literal):
                    yield f"<{tag}{attributes}>"
        for text in parsed(file).find_all(nodes.Const):
            if isinstance(text.value, str) and PAGES.match(text.value):
                yield f"line {text.lineno}: {text.value}"

    check([file for file in FILES if "emails" not in file.parts], find)


@cache
def written(file: Path) -> list[ast.Constant]:
    """String constants of a module, without docstrings and route paths."""
    tree = ast.parse(source(file))
    left_out: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            left_out.add(node.value)
        for decorator in getattr(node, "decorator_list", ()):
            left_out.update(ast.walk(decorator))
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in left_out
    ]


def test_views_contain_no_markup() -> None:
    def find(file: Path) -> Iterator[str]:
        if "markupsafe" in source(file):
            yield "uses markupsafe"
        yield from (
            f"line {text.lineno}: {text.value}" for text in written(file) if MARKUP.search(str(text.value))
        )

    check(VIEWS, find)


def test_views_build_urls_with_url_for() -> None:
    def find(file: Path) -> Iterator[str]:
        yield from (
            f"line {text.lineno}: {text.value}" for text in written(file) if PAGES.match(str(text.value))
        )

    check(VIEWS, find)


def test_colours_are_defined_in_tokens_only() -> None:
    drawings = {"tokens.css", "avatar.css", "gate.css", "landing.css", "chart.css", "base.css"}

    def find(file: Path) -> Iterator[str]:
        text = re.sub(r"/\*.*?\*/", "", source(file), flags=re.DOTALL)
        if found := re.search(r"#[0-9a-f]{3,8}\b(?![^{}]*\{)|\brgba?\(|\bhsla?\(", text):
            yield found[0]
        if file.name not in drawings and "oklch(" in text:
            yield "oklch("
        if "!important" in text and file.name not in {"base.css", "trace.css", "progress.css"}:
            yield "!important"

    check(CSS, find)


def test_layouts_shadow_no_context_variables() -> None:
    def find(file: Path) -> Iterator[str]:
        for node in parsed(file).body:
            if isinstance(node, nodes.Assign | nodes.FromImport | nodes.Macro):
                yield f"line {node.lineno}"

    layouts = sorted((TEMPLATES / "layouts").glob("[!_]*.html"))
    check([file for file in layouts if file.name != "base.html"], find)


UNNAMED = re.compile(r"(?<!receipt\.)\bname or (?:\w+\.)*email\b|coalesce\(User\.name, ")


def test_people_without_a_name_are_shown_by_their_address_everywhere() -> None:
    def find(file: Path) -> Iterator[str]:
        yield from (f"{found}: use User.display_name" for found in UNNAMED.findall(source(file)))

    models = sorted((ROOT / "models").rglob("*.py"))
    check([*FILES, *VIEWS, *models], find)


FORMATTED = re.compile(
    r"strftime|isoformat|['\"]\{:[^}]*[,.%][^}]*\}['\"]\.format|(?<!=\"\{\{ )'%\.\d+f[^']*'\|format"
)
UNSEEN = ("format.py", "viewer_locale.py", "logs.py", "body.py", "openapi.py")


def test_templates_format_times_and_numbers_by_filters_which_know_the_viewer() -> None:
    def find(file: Path) -> Iterator[str]:
        yield from FORMATTED.findall(source(file))

    check(FILES + sorted(TEMPLATES.rglob("*.txt")), find)


def test_pages_format_times_and_numbers_by_functions_which_know_the_viewer() -> None:
    def find(file: Path) -> Iterator[str]:
        for node in ast.walk(ast.parse(source(file))):
            if isinstance(node, ast.Attribute) and node.attr == "strftime":
                yield f"line {node.lineno}: strftime"
            if isinstance(node, ast.FormattedValue) and isinstance(node.format_spec, ast.JoinedStr):
                spec = "".join(
                    str(part.value) for part in node.format_spec.values if isinstance(part, ast.Constant)
                )
                if re.search(r"[,%]|\.\d*f", spec) and spec not in ("%Y-%m", "%Y-%m-%d"):
                    yield f"line {node.lineno}: {spec}"

    pages = [
        file
        for file in VIEWS
        if ({"pages", "web"} & set(file.parent.parts[-2:]) or file.name.endswith(("pages.py", "_page.py")))
        and file.name not in UNSEEN
        and "demo" not in file.parts
    ]
    check(pages, find)
