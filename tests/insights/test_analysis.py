"""Analyses of workspaces: after moves, on demand, once for the same files, and what becomes of their items."""

from collections.abc import Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import select, text
from sqlalchemy.orm import Session as OrmSession

from models.core.job_queue import transaction
from models.insights import ActionItem, FoundItem, WorkspaceAnalysis, analysing
from models.insights.analysed_tree import AnalysedTree
from models.insights.item_storing import MAX_STORED
from models.insights.tool_runner import AnalyserFailed
from tests.insights.analysis_rows import COMPLEX
from tests.projects.project_calls import ProjectsApi

EVAL = "eval(input())\n"


class Analysed:
    """A project with a main workspace of these files, and its analyses."""

    def __init__(self, api: ProjectsApi, session: OrmSession, files: dict[str, str]) -> None:
        self.api, self.session = api, session
        self.project = api.project()
        self.main = api.workspace(self.project)
        self.heads = {self.main: self.push(self.main, files)}

    def push(self, workspace: str, files: dict[str, str], *parents: str) -> str:
        more = {"parent_snapshot_ids": list(parents)} if parents else {}
        return self.api.push(self.project, self.api.tree(files), workspace_id=workspace, **more)

    def move(self, files: dict[str, str], workspace: str | None = None) -> None:
        at = workspace or self.main
        self.heads[at] = self.push(at, files, self.heads[at])

    def agent(self, files: dict[str, str]) -> str:
        head = self.heads[self.main]
        workspace = self.api.workspace(self.project, "agent", base_snapshot_id=head)
        self.heads[workspace] = self.push(workspace, files, head)
        return workspace

    def analyse(self, workspace: str | None = None) -> Any:
        self.session.rollback()
        return analysing.analyse_workspace(transaction, workspace or self.main)

    def items(self, query: str = "") -> list[tuple[str, str]]:
        status, body = self.api("get", f"/projects/{self.project}/action-items?limit=500&{query}")
        assert status == 200
        return [
            (each["rule"], each["workspace_name"]) for each in body["items"] if each["source"] != "computed"
        ]


def jobs_for(session: OrmSession, workspace: str) -> int:
    query = text(
        "SELECT count(*) FROM procrastinate_jobs WHERE task_name = 'insights.analyse' AND args->>'workspace_id' = :id"
    )
    return int(session.execute(query, {"id": workspace}).scalar_one())


def test_moves_that_follow_each_other_are_analysed_once(session: OrmSession, mine: ProjectsApi) -> None:
    place = Analysed(mine, session, {"a.py": EVAL})
    place.move({"a.py": EVAL, "b.py": EVAL})
    place.move({"a.py": EVAL, "b.py": "", "c.py": COMPLEX})
    assert jobs_for(session, place.main) == 1
    assert place.items() == []
    assert place.analyse().files == 3
    assert place.items() == [("ruff:S307", "main"), ("ruff:C901", "main")]
    assert place.analyse() is None
    place.move({"a.py": EVAL})
    assert jobs_for(session, place.main) == 2


def test_twenty_analyses_of_the_same_files_make_no_duplicates(
    session: OrmSession, mine: ProjectsApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {f"p/{number}.py": EVAL * 2 + COMPLEX for number in range(3)} | {"README.md": "See p/0.py:999."}
    place = Analysed(mine, session, files)
    first = None
    for number in range(20):
        monkeypatch.setattr(analysing, "RULES", number + 2)
        assert place.analyse() is not None
        rows = {
            row.id: (row.fingerprint, row.updated_at) for row in session.scalars(select(ActionItem)).unique()
        }
        session.rollback()
        first = first or rows
        assert rows == first
    assert len(first or {}) == 10


def test_an_item_is_resolved_when_it_is_gone_and_found_again_when_it_returns(
    session: OrmSession, mine: ProjectsApi, mason: str
) -> None:
    place = Analysed(mine, session, {"a.py": EVAL, "b.py": COMPLEX})
    place.analyse()
    (item,) = [each for each in mine("get", "/action-items")[1]["items"] if each["rule"] == "ruff:S307"]
    mine("patch", f"/action-items/{item['id']}", {"assigned_agent": mason})
    place.move({"a.py": "", "b.py": COMPLEX})
    place.analyse()
    assert place.items() == [("ruff:C901", "main")]
    gone = mine("get", f"/action-items/{item['id']}")[1]["item"]
    assert (gone["status"], gone["resolved_at"] is not None) == ("resolved", True)
    place.move({"a.py": "x = 1\n\n" + EVAL, "b.py": ""})
    place.analyse()
    back = mine("get", f"/action-items/{item['id']}")[1]["item"]
    assert (back["status"], back["resolved_at"], back["assigned_agent"]) == ("pending", None, mason)
    assert back["title"].startswith("a.py:3")
    mine("post", f"/action-items/{item['id']}/dismiss", {"reason": "Meant so"})
    place.move({"a.py": "x = 2\n" + EVAL})
    place.analyse()
    assert place.items() == []
    assert mine("get", f"/action-items/{item['id']}")[1]["item"]["dismissed_reason"] == "Meant so"


def test_items_that_people_wrote_are_resolved_by_nobody(session: OrmSession, mine: ProjectsApi) -> None:
    place = Analysed(mine, session, {"a.py": ""})
    body = {"workspace_id": place.main, "type": "refactoring", "title": "Tidy", "fingerprint": "x"}
    mine("post", "/action-items", body)
    place.analyse()
    assert place.items() == [("manual", "main")]


def test_a_workspace_answers_only_for_what_main_does_not_have(session: OrmSession, mine: ProjectsApi) -> None:
    place = Analysed(mine, session, {"a.py": EVAL})
    agent = place.agent({"a.py": EVAL, "b.py": COMPLEX})
    place.analyse(agent)
    assert sorted(place.items()) == [("ruff:C901", "agent"), ("ruff:S307", "agent")]
    place.analyse()
    assert sorted(place.items()) == [("ruff:C901", "agent"), ("ruff:S307", "main")]
    place.move({"a.py": EVAL, "b.py": COMPLEX})
    place.analyse()
    assert sorted(place.items()) == [("ruff:C901", "main"), ("ruff:S307", "main")]


def test_a_tool_that_fails_resolves_nothing_and_is_told(
    session: OrmSession, mine: ProjectsApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Analysed(mine, session, {"a.py": EVAL, "README.md": "[x](gone.md)"})
    place.analyse()

    def broken(tree: AnalysedTree) -> Iterator[FoundItem]:
        raise AnalyserFailed
        yield

    monkeypatch.setitem(analysing.ANALYSERS, "ruff", broken)
    place.move({"a.py": ""})
    result = place.analyse()
    assert result.problems == ["ruff did not come to an end, so what it found may not be all."]
    assert place.items() == [("ruff:S307", "main")]
    row = session.get_one(WorkspaceAnalysis, place.main)
    assert (row.problems, row.files, row.queued_at) == (result.problems, 1, None)


def test_the_items_of_an_analyser_are_limited(session: OrmSession, mine: ProjectsApi) -> None:
    text = "".join(f"eval(x{number})\n" for number in range(MAX_STORED + 20))
    place = Analysed(mine, session, {"a.py": "from b import *\n" + text})
    place.analyse()
    assert len(place.items()) == MAX_STORED
    place.move({"a.py": ""})
    place.analyse()
    assert place.items() == []


def test_an_analysis_on_demand(session: OrmSession, client: FlaskClient, mine: ProjectsApi) -> None:
    place = Analysed(mine, session, {"a.py": EVAL})
    status, body = mine("post", f"/workspaces/{place.main}/analyze")
    assert (status, body["queued"]) == (202, True)
    assert jobs_for(session, place.main) == 2
    place.analyse()
    assert mine("post", f"/workspaces/{place.main}/analyze")[1] == {**body, "queued": False}
    empty = mine.workspace(place.project, "empty")
    status, body = mine("post", f"/workspaces/{empty}/analyze")
    assert (status, body["error"]["code"]) == (409, "CONFLICT")


def test_nothing_is_analysed_of_a_deleted_workspace(session: OrmSession, mine: ProjectsApi) -> None:
    place = Analysed(mine, session, {"a.py": EVAL})
    agent = place.agent({"b.py": EVAL})
    place.analyse(agent)
    assert mine("delete", f"/workspaces/{agent}")[0] == 200
    place.move({"a.py": "", "c.py": EVAL})
    assert place.analyse(agent) is None
    assert place.items() == []
    assert analysing.analyse_workspace(transaction, "nothing") is None


def news(place: Analysed) -> dict[str, str]:
    """Findings that are new since a snapshot, by rule."""
    _, body = place.api("get", f"/projects/{place.project}/action-items?limit=500")
    found = {each["rule"]: each["action_data"].get("metadata", {}).get("new_since") for each in body["items"]}
    return {rule: since for rule, since in found.items() if since}


CYCLE = {"one.py": "import two\n", "two.py": "import one\n"}
DEAD = {"README.md": "See [the roof](roof.md).\n"}
UNTESTED = {f"m{number}.py": f"x = {number}\n" for number in range(6)}


@pytest.mark.parametrize(
    ("rule", "files"), [("imports:cycle", CYCLE), ("docs:dead-citation", DEAD), ("tests:missing", UNTESTED)]
)
@pytest.mark.parametrize("analysed_before", [True, False])
def test_a_finding_says_that_it_is_new_since_the_last_snapshot(
    session: OrmSession, mine: ProjectsApi, rule: str, files: dict[str, str], analysed_before: bool
) -> None:
    base = {"base.py": "y = 1\n"}
    place = Analysed(mine, session, base)
    first = place.heads[place.main]
    if analysed_before:
        place.analyse()
    place.move({**base, **files})
    second = place.heads[place.main]
    place.analyse()
    assert news(place) == {rule: first}
    place.move({**base, **files, "other.txt": "z"})
    place.analyse()
    assert news(place) == {}, "the last snapshot has it too"
    place.move({**base, "other.txt": "z"})
    place.analyse()
    place.move({**base, **files, "other.txt": "z"})
    if not analysed_before:
        session.rollback()
        row = session.get_one(WorkspaceAnalysis, place.main)
        row.manifest_hash = "0" * 64
        session.commit()
    place.analyse()
    assert set(news(place)) == {rule}
    assert second not in news(place).values()


def test_what_the_first_snapshot_has_is_not_new(session: OrmSession, mine: ProjectsApi) -> None:
    place = Analysed(mine, session, {**CYCLE, **DEAD, **UNTESTED})
    place.analyse()
    assert len(place.items()) == 3
    assert news(place) == {}
