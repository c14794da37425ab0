"""README and docs: commands, routes and links exist, and the README's requests work."""

import re
from pathlib import Path

import click
import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy.orm import Session as OrmSession

from models.core.settings import ROOT
from tests import factories
from tests.factories import Person

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def name(path: Path) -> str:
    return path.name


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_between_documents_resolve(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith("/"):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_exist(app: Flask, page: Path) -> None:
    for group, command in re.findall(r"[`/ ]flask ([a-z]+) ([a-z-]+)[^\n|]*`", page.read_text()):
        found = app.cli.commands.get(group)
        assert isinstance(found, click.Group), group
        assert command in found.commands, f"{group} {command}"


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "docs" / "store.md"], ids=name)
def test_store_routes_exist(app: Flask, page: Path) -> None:
    adapter = app.url_map.bind("localhost")
    text = page.read_text()
    paths = set(
        re.findall(r"(?<![\w.])/(?:store|publishers|api/(?:v1/)?(?:agents|publishers))[\w/.-]*", text)
    )
    assert paths
    for path in paths:
        assert adapter.allowed_methods(path.rstrip(".")), path


def test_the_readme_request_publishes_an_agent_that_search_finds(
    client: FlaskClient, session: OrmSession, alice: Person
) -> None:
    assert alice.user
    factories.publisher(alice.user, "acme")
    readme = (ROOT / "README.md").read_text()
    requests = re.findall(
        r"curl http://localhost:8000(/api/\S+) -H \"Authorization: Bearer \$STOA_KEY\" -d '([^']+)'", readme
    )
    ((path, body),) = requests
    kind = "application/x-www-form-urlencoded"  # the default of curl -d
    answer = client.post(path, data=body, headers=alice.headers, content_type=kind)
    assert answer.status_code == 201, answer.get_json()
    (search,) = re.findall(r'curl "http://localhost:8000(/store\?[^"]+)"', readme)
    assert "/publishers/acme/agents/herald" in client.get(search).get_data(as_text=True)
