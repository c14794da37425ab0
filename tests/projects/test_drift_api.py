"""Drift: the categories and figures of the contract, what is stored and what is only read, and why some cannot be compared."""

from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import func, select
from sqlalchemy.orm import Session as OrmSession

from models.orgs import Org
from models.projects import DriftReport, WorkspaceOperation
from models.projects.snapshots.manifest_text import Entry
from models.projects.workspaces import drift_comparison, drift_report
from models.projects.workspaces.drift_report import drift_metrics
from tests.factories import Person
from tests.projects.project_calls import ProjectsApi, sha, typed

pytestmark = pytest.mark.usefixtures("proved")
COUNTERS = {"files_added": 1, "files_modified": 2, "files_deleted": 3, "bytes_changed": 4}
METRICS = {
    *("total_drift_files", "has_overlaps", "overlap_ratio", "risk_level", "staleness_hours"),
    *("top_overlap_files", "counts_by_ext", "large_files_changed"),
}


class Pair:
    """A project whose main workspace and another one have these files."""

    def __init__(self, api: ProjectsApi, main: dict[str, str] | None, own: dict[str, str] | None) -> None:
        self.api, self.project = api, api.project()
        self.main = api.workspace(self.project, "main")
        self.own = api.workspace(self.project, "own")
        for id, files in ((self.main, main), (self.own, own)):
            if files is not None:
                api.push(self.project, api.tree(files), workspace_id=id)

    def compare(self, method: str = "get", query: str = "") -> tuple[int, Any]:
        return self.api(method, f"/workspaces/{self.own}/drift/compare{query}")

    def drift(self, query: str = "") -> Any:
        status, body = self.compare(query=query)
        assert status == 200, body
        return body["drift"]

    def reports(self, query: str = "") -> Any:
        return self.api("get", f"/workspaces/{self.own}/drift{query}")[1]


def test_files_fall_into_four_lists(mine: ProjectsApi) -> None:
    main = {"same": "1", "b.PY": "main", "a.py": "main", "d/gone": "x", "z": "z"}
    pair = Pair(mine, main, {"same": "1", "b.PY": "own", "a.py": "own", "d/new.md": "x"})
    status, body = pair.compare()
    drift = body["drift"]
    assert (status, body["is_main_workspace"]) == (200, False)
    assert body["source_workspace"] == {"id": pair.main, "name": "main"}
    assert drift["source_only"] == ["d/gone", "z"]
    assert drift["workspace_only"] == ["d/new.md"]
    assert drift["both_same"] == ["same"]
    assert drift["both_different"] == ["a.py", "b.PY"]
    assert (drift["workspace_id"], drift["source_workspace_id"]) == (pair.own, pair.main)
    assert (drift["files_added"], drift["files_modified"]) == (2, 2)
    assert (drift["files_deleted"], drift["bytes_changed"], drift["total_drift_files"]) == (0, 0, 4)
    assert (drift["has_overlaps"], drift["overlap_ratio"], drift["risk_level"]) == (True, 0.5, "medium")
    assert drift["top_overlap_files"] == ["a.py", "b.PY"]
    assert drift["counts_by_ext"] == {
        "source_only": {"none": 2},
        "workspace_only": {".md": 1},
        "both_different": {".py": 2},
    }
    assert (drift["large_files_changed"], drift["staleness_hours"], drift["truncated"]) == (False, 0.0, [])
    assert None not in (drift["workspace_snapshot_id"], drift["source_snapshot_id"])


@pytest.mark.parametrize(
    ("added", "modified", "ratio", "risk"),
    [
        (0, 0, 0.0, "low"),
        (50, 0, 0.0, "low"),
        (1, 1, 0.5, "medium"),
        (2, 3, 0.6, "high"),
        (0, 1, 1.0, "high"),
        (90, 9, 9 / 99, "medium"),
        (90, 10, 0.1, "high"),
    ],
)
def test_the_risk_follows_from_the_counters(added: int, modified: int, ratio: float, risk: str) -> None:
    assert drift_metrics(added, modified) == (added + modified, modified > 0, ratio, risk)


def test_only_the_content_of_files_counts(mine: ProjectsApi) -> None:
    pair = Pair(mine, None, None)
    content = sha(mine.blob("1") and "1")
    trees = [
        typed(
            {}, Entry("a", "file", 420, content, 1), Entry("d", "dir", 493), Entry("l", "symlink", target="a")
        ),
        typed(
            {}, Entry("a", "file", 493, content, 1), Entry("e", "dir", 493), Entry("l", "symlink", target="x")
        ),
    ]
    for id, text in zip((pair.main, pair.own), trees, strict=True):
        mine.push(pair.project, mine.manifest(text), workspace_id=id)
    drift = pair.drift()
    assert (drift["total_drift_files"], drift["workspace_only"], drift["both_same"]) == (0, [], ["a"])


def test_large_files_are_told(mine: ProjectsApi) -> None:
    pair = Pair(mine, {"big": "x" * 200_000, "a": "1"}, {"a": "1"})
    assert pair.drift()["large_files_changed"] is True


def test_a_fork_is_compared_by_its_head(mine: ProjectsApi) -> None:
    project = mine.project()
    main = mine.workspace(project)
    base = mine.push(project, mine.tree({"a": "1"}), workspace_id=main)
    fork = mine.workspace(project, "fork", base_snapshot_id=base)
    drift = mine("get", f"/workspaces/{fork}/drift/compare")[1]["drift"]
    assert (drift["workspace_snapshot_id"], drift["both_same"]) == (base, ["a"])


def test_files_in_no_snapshot_count_unless_they_are_left_out(mine: ProjectsApi) -> None:
    pair = Pair(mine, {"a": "1"}, {"a": "1"})
    dirty = {"manifest_hash": mine.tree({"a": "2"}), "previous_manifest_hash": mine.tree({"a": "1"})}
    assert mine("post", f"/workspaces/{pair.own}/current-manifest", dirty)[0] == 200
    for query in ("", "?include_dirty=true", "?include_dirty=1"):
        drift = pair.drift(query)
        assert (drift["both_different"], drift["workspace_snapshot_id"]) == (["a"], None)
    for query in ("?include_dirty=false", "?include_dirty=0"):
        drift = pair.drift(query)
        assert (drift["both_different"], drift["workspace_snapshot_id"] is None) == ([], False)
    status, answer = pair.compare(query="?include_dirty=maybe")
    assert (status, answer["error"]["code"]) == (422, "VALIDATION_ERROR")


def test_reading_stores_nothing_and_posting_stores_the_same_once(
    session: OrmSession, mine: ProjectsApi
) -> None:
    pair = Pair(mine, {"a": "1", "b": "1"}, {"a": "2"})
    assert pair.drift()["id"] is None
    assert pair.reports() == {"drift_reports": [], "latest": None}
    status, body = pair.compare("post")
    assert status == 201
    id = body["drift"]["id"]
    again = pair.compare("post")
    assert (again[0], again[1]["drift"]["id"], pair.drift()["id"]) == (200, id, id)
    reports = pair.reports()
    assert reports["latest"] == reports["drift_reports"][0]
    latest = reports["latest"]
    assert (len(reports["drift_reports"]), latest["id"], latest["large_files_changed"]) == (1, id, None)
    for name in ("source_only", "workspace_only", "both_same", "both_different", "counts_by_ext"):
        assert latest[name] == body["drift"][name], name
    mine.push(pair.project, mine.tree({"a": "3"}), workspace_id=pair.own)
    assert pair.drift()["id"] is None
    assert pair.compare("post")[0] == 201
    assert len(pair.reports()["drift_reports"]) == 2
    assert len(pair.reports("?limit=1")["drift_reports"]) == 1
    assert session.scalars(select(WorkspaceOperation.kind).distinct()).all() == ["snapshot"]


def test_workspaces_show_their_latest_report(mine: ProjectsApi) -> None:
    pair = Pair(mine, {"a": "1", "b": "1"}, {"a": "2"})
    pair.compare("post")
    shown = mine("get", f"/workspaces/{pair.own}")[1]["drift"]
    assert shown == {**pair.reports()["latest"], "staleness_hours": shown["staleness_hours"]}
    listed = {
        each["id"]: each["drift"]
        for each in mine("get", f"/projects/{pair.project}/workspaces")[1]["workspaces"]
    }
    names = ("files_added", "files_modified", "files_deleted", "bytes_changed", "summary", "reported_at")
    assert listed == {pair.main: None, pair.own: {name: shown[name] for name in names}}


def test_counters_of_a_client_are_kept(mine: ProjectsApi) -> None:
    pair = Pair(mine, None, None)
    status, body = mine("post", f"/workspaces/{pair.own}/drift", {**COUNTERS, "summary": "Some"})
    report = body["drift_report"]
    assert (status, report["source_workspace_id"], report["summary"]) == (201, "", "Some")
    assert METRICS.isdisjoint(report)
    assert {name: report[name] for name in COUNTERS} == COUNTERS
    event = mine("get", f"/projects/{pair.project}/events")[1]["events"][0]
    assert (event["type"], event["message"], event["workspace_id"]) == (
        "drift.reported",
        "Drift: +1 ~2 -3",
        pair.own,
    )
    assert mine("get", f"/workspaces/{pair.own}")[1]["workspace"]["last_seen_at"] == report["reported_at"]
    latest = pair.reports()["latest"]
    assert (latest["total_drift_files"], latest["risk_level"]) == (3, "high")
    assert mine("post", f"/workspaces/{pair.own}/drift", {"bytes_changed": 9})[0] == 201
    assert mine("get", f"/projects/{pair.project}/events")[1]["events"][0] == event


@pytest.mark.parametrize(
    "body",
    [
        {"files_added": -1},
        {"files_added": "1"},
        {"files_modified": 2**31},
        {"files_deleted": None},
        {"bytes_changed": -1},
        {"bytes_changed": 2**60},
        {"summary": 7},
        {"summary": "x" * 10_001},
        [],
    ],
)
def test_wrong_counters_are_422(mine: ProjectsApi, body: Any) -> None:
    pair = Pair(mine, None, None)
    status, answer = mine("post", f"/workspaces/{pair.own}/drift", body)
    assert (status, answer["error"]["code"]) == (422, "VALIDATION_ERROR")
    assert pair.reports()["latest"] is None


def test_only_the_newest_reports_are_kept(
    session: OrmSession, mine: ProjectsApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drift_report, "KEPT", 3)
    pair = Pair(mine, None, None)
    for count in range(1, 6):
        mine("post", f"/workspaces/{pair.own}/drift", {"files_added": count})
        mine("post", f"/workspaces/{pair.main}/drift", {"files_added": count})
    assert [each["files_added"] for each in pair.reports()["drift_reports"]] == [5, 4, 3]
    assert session.scalar(select(func.count()).select_from(DriftReport)) == 6


def test_long_lists_are_cut_and_say_so(mine: ProjectsApi, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {f"{number:02}": "1" for number in range(12)}
    pair = Pair(mine, files, {**dict.fromkeys(files, "2"), "new": "1"})
    monkeypatch.setattr(drift_comparison, "MAX_SAME", 11)
    monkeypatch.setattr(drift_comparison, "MAX_KEPT", 5)
    found = pair.compare("post")[1]["drift"]
    assert (len(found["both_different"]), found["truncated"]) == (12, ["both_same"])
    latest = pair.reports()["latest"]
    assert (latest["both_different"], latest["files_modified"]) == (sorted(files)[:5], 12)
    assert latest["truncated"] == ["both_different", "both_same"]


def test_what_cannot_be_compared_says_why(mine: ProjectsApi) -> None:
    pair = Pair(mine, {"a": "1"}, None)
    lacking = {"drift": None, "is_main_workspace": False}
    for method in ("get", "post"):
        assert pair.compare(method) == (
            200,
            {**lacking, "message": "The workspace 'own' has no snapshot yet. Push one first."},
        )
        status, body = mine(method, f"/workspaces/{pair.main}/drift/compare")
        assert (status, body["drift"], body["is_main_workspace"]) == (200, None, True)
        for id in (pair.own, "X" * 26, "a\0b".replace("\0", "%00"), "x" * 200):
            status, body = pair.compare(method, f"?source_workspace_id={id}")
            assert (status, {**body, "message": ""}) == (200, {**lacking, "message": ""}), id
    unknown = {"manifest_hash": "f" * 64}
    assert mine("post", f"/workspaces/{pair.own}/current-manifest", unknown)[0] == 200
    assert "is not stored" in pair.compare()[1]["message"]
    opaque = {"manifest_hash": mine.manifest(b"not a manifest"), "previous_manifest_hash": "f" * 64}
    assert mine("post", f"/workspaces/{pair.own}/current-manifest", opaque)[0] == 200
    assert "format" in pair.compare()[1]["message"]
    assert mine("post", f"/workspaces/{pair.own}/drift/analyze")[1] == {
        "analysis": None,
        "error": pair.compare()[1]["message"],
    }
    assert pair.reports()["latest"] is None


def test_a_project_without_workspaces_to_compare_with(mine: ProjectsApi) -> None:
    project = mine.project()
    id = mine.workspace(project)
    body = mine("get", f"/workspaces/{id}/drift/compare")[1]
    assert (body["drift"], body["is_main_workspace"]) == (None, True)
    body = mine("get", f"/workspaces/{id}/drift/compare?source_workspace_id={id}")[1]
    assert (body["drift"], body["is_main_workspace"]) == (None, False)


def test_workspaces_of_other_projects_and_accounts_are_no_source(
    client: FlaskClient, mine: ProjectsApi, mallory: Person, acme: Org
) -> None:
    pair = Pair(mine, {"a": "1"}, {"a": "2"})
    other = Pair(mine, {"a": "1"}, None)
    theirs = Pair(ProjectsApi(client, mallory), {"a": "1"}, None)
    for method in ("get", "post"):
        status, body = pair.compare(method, f"?source_workspace_id={other.main}")
        assert (status, body["error"]["code"]) == (400, "INVALID_OPERATION")
        hidden = pair.compare(method, f"?source_workspace_id={theirs.main}")
        assert hidden == pair.compare(method, f"?source_workspace_id={'X' * 26}")
    mine("delete", f"/workspaces/{pair.own}")
    assert pair.compare()[0] == 404


@pytest.mark.parametrize(
    ("differing", "added", "risk"),
    [(0, 0, "low"), (0, 3, "low"), (1, 0, "medium"), (5, 9, "medium"), (6, 0, "high")],
)
def test_an_analysis_follows_from_the_files(mine: ProjectsApi, differing: int, added: int, risk: str) -> None:
    both = {f"b{number}": "1" for number in range(differing)}
    main = {"same": "1", **both, **{f"a{number}": "1" for number in range(added)}}
    pair = Pair(mine, main, {"same": "1", **dict.fromkeys(both, "2")})
    status, body = mine("post", f"/workspaces/{pair.own}/drift/analyze")
    analysis = body["analysis"]
    assert (status, analysis["risk_level"], analysis["can_auto_sync"]) == (200, risk, not differing)
    assert ("nothing to do" in analysis["recommendation"]) == (not differing and not added)
    assert pair.reports()["latest"] is None
