"""Sync: every row of the contract's tables, what a preview shows, what its execution makes, and its undo."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session as OrmSession

from models.core.db import now
from models.orgs import Org
from models.projects import Blob, Manifest, Pack, Project, Snapshot, SyncPreview
from models.projects.project_purge import forget_projects
from models.projects.snapshots import blob_garbage
from models.projects.sync.sync_preview import KEPT, LIFETIME, MAX_OPEN, forget_previews
from tests import factories
from tests.factories import Person
from tests.projects.project_calls import ProjectsApi, indented, sha, typed
from tests.projects.synced_project import LINES, SyncedProject

pytestmark = pytest.mark.usefixtures("proved")
CONTRACT = {
    *("id", "workspace_id", "drift_report_id", "auto_actions", "decisions_needed", "files_to_update"),
    *("files_to_add", "files_unchanged", "summary", "created_at", "expires_at"),
}


@pytest.fixture
def shop(mine: ProjectsApi) -> SyncedProject:
    """The copy changed the last line of `text`, main the first, and other files."""
    made = SyncedProject(mine, {"a": "1", "gone": "1", "same": "1", "text": LINES})
    made.push(made.main, {"a": "2", "new": "2 files", "same": "1", "text": LINES.replace("one", "ONE")})
    made.push(
        made.copy, {"a": "1", "gone": "1", "same": "1", "own": "1", "text": LINES.replace("seven", "SEVEN")}
    )
    return made


@pytest.fixture
def torn(mine: ProjectsApi) -> SyncedProject:
    """Both changed `a` and `b` otherwise; main added `c`."""
    made = SyncedProject(mine, {"a": "1\n", "b": "1\n"})
    made.push(made.main, {"a": "main\n", "b": "main\n", "c": "main\n"})
    made.push(made.copy, {"a": "copy\n", "b": "copy\n"})
    return made


MERGED = LINES.replace("one", "ONE").replace("seven", "SEVEN")


# -- preview ------------------------------------------------------------------------------------------------------------


def test_a_preview_has_the_shape_of_the_contract_and_moves_nothing(shop: SyncedProject) -> None:
    before = shop.state(shop.copy), shop.operations()
    preview = shop.prepare()
    assert set(preview) >= CONTRACT
    assert (preview["workspace_id"], preview["drift_report_id"]) == (shop.copy, "")
    actions = {each["path"]: each for each in preview["auto_actions"]}
    assert {path: (each["action"], each["label"]) for path, each in actions.items()} == {
        "a": ("copy_from_main", "one-sided"),
        "gone": ("copy_from_main", "one-sided"),
        "new": ("copy_from_main", "one-sided"),
        "text": ("ai_combined", "lines"),
    }
    assert (actions["gone"]["result"], actions["a"]["result"]["hash"]) == (None, sha("2"))
    assert actions["text"]["combined_content"] == MERGED
    assert "combined_content" not in actions["a"]
    assert preview["decisions_needed"] == []
    figures = preview["files_to_add"], preview["files_to_update"], preview["files_unchanged"]
    assert figures == (3, 1, 1)
    assert preview["base_snapshot_id"] == shop.base
    assert (shop.state(shop.copy), shop.operations()) == before


def test_a_decision_says_what_both_sides_did(torn: SyncedProject) -> None:
    preview = torn.prepare()
    assert [each["path"] for each in preview["auto_actions"]] == ["c"]
    first = preview["decisions_needed"][0]
    assert [each["path"] for each in preview["decisions_needed"]] == ["a", "b"]
    assert (first["reason"], first["recommended_option_id"]) == ("same_place", "use_main")
    assert (first["main_intent"], first["workspace_intent"]) == (
        "Main changed it.",
        "The workspace changed it.",
    )
    contents = {each["id"]: each["resulting_content"] for each in first["options"]}
    assert contents == {"use_main": "main\n", "use_workspace": "copy\n"}
    assert first["custom_allowed"]
    assert "<<<<<<<" in first["draft"]
    assert (preview["files_to_add"], preview["files_to_update"]) == (1, 2)


def test_a_sync_without_changes_is_not_stored(session: OrmSession, mine: ProjectsApi) -> None:
    shop = SyncedProject(mine, {"a": "1"})
    shop.push(shop.copy, {"a": "2", "b": "1"})
    preview = shop.prepare()
    assert (preview["auto_actions"], preview["decisions_needed"], preview["files_unchanged"]) == ([], [], 1)
    assert preview["summary"] == "The workspace is up to date with main."
    assert session.scalars(select(SyncPreview)).all() == []
    status, answer = shop.execute(preview["id"])
    assert (status, answer["error"]["code"]) == (404, "PREVIEW_EXPIRED")


CASES: list[tuple[str | None, str | None, str | None, str | None]] = [
    # base, workspace, main, result; "?" is a decision
    (None, None, "s", "s"),
    ("b", "b", "s", "s"),
    ("b", "c", "b", "c"),
    ("b", "x", "x", "x"),
    ("b", "c", "s", "?"),
    ("b", None, "b", None),
    ("b", None, "s", "?"),
    ("b", "b", None, None),
    ("b", "c", None, "?"),
    ("b", None, None, None),
    (None, "c", None, "c"),
    (None, "x", "x", "x"),
    (None, "c", "s", "?"),
    ("b", "c\0", "s\0", "?"),
]


def test_each_case_of_a_merge_is_settled_as_the_contract_says(mine: ProjectsApi) -> None:
    def side(number: int) -> dict[str, str]:
        return {
            f"{at:02}": f"{at} {text}" for at, case in enumerate(CASES) if (text := case[number]) is not None
        } | {"kept": "1"}

    shop = SyncedProject(mine, side(0))
    shop.push(shop.copy, side(1))
    shop.push(shop.main, side(2))
    preview = shop.prepare()
    decided = {each["path"] for each in preview["decisions_needed"]}
    assert decided == {f"{at:02}" for at, case in enumerate(CASES) if case[3] == "?"}
    assert shop.execute(preview["id"], decisions=dict.fromkeys(decided, "use_workspace"))[0] == 200
    files = shop.files()
    for at, (_, workspace, _, result) in enumerate(CASES):
        wanted = workspace if result == "?" else result
        assert files.get(f"{at:02}") == (None if wanted is None else f"{at} {wanted}"), CASES[at]


def test_the_dialects_of_manifests_make_no_difference(mine: ProjectsApi) -> None:
    shop = SyncedProject(mine, {"a": "1", "b": "1"})
    mine.blob("2")
    plain = [{"path": "a", "hash": sha("1"), "size": 1}, {"path": "b", "hash": sha("2"), "size": 1}]
    shop.push_manifest(shop.main, mine.manifest(indented(plain)))
    assert [each["path"] for each in shop.prepare()["auto_actions"]] == ["b"]
    shop.sync()
    assert shop.files() == {"a": "1", "b": "2"}
    assert (
        b'"type": "file"'
        in mine.raw("get", f"/blobs/manifests/{shop.state(shop.copy)['current_manifest_hash']}").data
    )


def test_warnings_name_what_merged_and_looks_wrong(mine: ProjectsApi) -> None:
    shop = SyncedProject(mine, {"a.py": "def total(x):\n    return x\n", "b.py": "x = 1\n"})
    shop.push(shop.main, {"a.py": "def amount(x):\n    return x\n", "b.py": "x = 1\n"})
    shop.push(
        shop.copy,
        {"a.py": "def total(x):\n    return x\n", "b.py": "from a import total\n\nx = total(1)\n"},
    )
    warning = shop.prepare()["warnings"][0]
    assert (warning["kind"], warning["path"]) == ("removed_name_used", "b.py")
    assert "total" in warning["message"]


# -- execution ----------------------------------------------------------------------------------------------------------


def test_an_execution_makes_files_snapshots_and_an_operation(
    session: OrmSession, shop: SyncedProject, mine: ProjectsApi, alice: Person
) -> None:
    head, main = (shop.state(each)["current_snapshot_id"] for each in (shop.copy, shop.main))
    before_files, main_files = shop.files(), shop.files(shop.main)
    done = shop.sync()
    assert (done["success"], done["files_added"], done["files_updated"], done["errors"]) == (True, 3, 1, [])
    assert shop.files() == {"a": "2", "new": "2 files", "same": "1", "own": "1", "text": MERGED}
    assert shop.files(shop.main) == main_files
    before, after = shop.snapshot(done["snapshot_before_id"]), shop.snapshot(done["snapshot_after_id"])
    assert (before["source"], before["parent_snapshot_ids"]) == ("system", [head])
    assert shop.files_of(before["manifest_hash"]) == before_files
    assert (after["source"], after["parent_snapshot_ids"]) == ("web", [head, main])
    state = shop.state(shop.copy)
    assert (state["current_snapshot_id"], state["current_manifest_hash"]) == (
        after["id"],
        after["manifest_hash"],
    )
    assert list(state["merge_history"]) == [shop.main]
    assert state["merge_history"][shop.main]["last_merged_snapshot"] == main
    assert state["merge_history"][shop.main]["merged_at"].endswith("Z")
    assert state["last_seen_at"] is not None
    operation = shop.operations()[0]
    assert (operation["id"], operation["kind"], operation["version"]) == (done["operation_id"], "sync", 3)
    assert (operation["before_snapshot_id"], operation["after_snapshot_id"]) == (head, after["id"])
    assert mine.raw("get", f"/workspaces/{shop.copy}").headers["ETag"] == '"3"'
    assert mine("get", f"/projects/{shop.id}")[1]["project"]["last_snapshot_id"] == after["id"]
    event = mine("get", f"/projects/{shop.id}/events")[1]["events"][0]
    assert (event["type"], event["actor"], event["workspace_id"]) == ("merge.completed", "web", shop.copy)
    assert shop.prepare()["auto_actions"] == []
    row = session.scalars(select(SyncPreview)).one()
    assert (row.state, row.decisions, row.user_id) == ("executed", {}, alice.id)


@pytest.mark.parametrize(
    ("answers", "custom", "result"),
    [
        ({"a": "use_main", "b": "use_main"}, None, {"a": "main\n", "b": "main\n"}),
        ({"a": "use_workspace", "b": "use_main"}, None, {"a": "copy\n", "b": "main\n"}),
        ({"a": "use_main", "b": "custom"}, {"b": "mine\n"}, {"a": "main\n", "b": "mine\n"}),
        ({"a": "use_main"}, {"b": "mine\n"}, {"a": "main\n", "b": "mine\n"}),
        ({"a": "use_main", "b": "use_main"}, {"b": "mine\n"}, {"a": "main\n", "b": "main\n"}),
    ],
)
def test_answers_decide(
    session: OrmSession, torn: SyncedProject, answers: Any, custom: Any, result: dict[str, str]
) -> None:
    torn.sync(decisions=answers, custom_values=custom)
    assert torn.files() == {**result, "c": "main\n"}
    decided = session.scalars(select(SyncPreview.decisions)).one()
    assert decided == {**dict.fromkeys(custom or {}, "custom"), **answers}


@pytest.mark.parametrize(
    ("body", "code", "details"),
    [
        ({}, "MISSING_DECISIONS", {"missing": ["a", "b"]}),
        ({"decisions": None}, "MISSING_DECISIONS", {"missing": ["a", "b"]}),
        ({"decisions": {"b": "use_main"}}, "MISSING_DECISIONS", {"missing": ["a"]}),
        ({"decisions": {"a": "shrug", "b": "use_main"}}, "OPTION_UNKNOWN", None),
        ({"decisions": {"a": ["use_main"], "b": None}}, "OPTION_UNKNOWN", None),
        ({"decisions": {"a": "use_main", "b": "use_main", "c": "use_main"}}, "DECISION_UNKNOWN", None),
        ({"decisions": {"a": "custom", "b": "use_main"}}, "CUSTOM_TEXT_MISSING", None),
        (
            {"decisions": {"a": "custom", "b": "use_main"}, "custom_values": {"a": 7}},
            "CUSTOM_TEXT_INVALID",
            None,
        ),
        (
            {
                "decisions": {"b": "use_main"},
                "custom_values": {"a": "<<<<<<< main\nx\n=======\ny\n>>>>>>> copy\n"},
            },
            "CUSTOM_TEXT_INVALID",
            None,
        ),
    ],
)
def test_wrong_answers_are_400_and_leave_nothing_behind(
    session: OrmSession, torn: SyncedProject, body: dict[str, Any], code: str, details: Any
) -> None:
    preview, before = torn.prepare()["id"], (torn.state(torn.copy), torn.operations())
    counted = session.scalar(select(func.count()).select_from(Snapshot))
    status, answer = torn.execute(preview, **body)
    assert (status, answer["error"]["code"], answer["error"].get("details")) == (400, code, details)
    assert (torn.state(torn.copy), torn.operations()) == before
    assert session.scalar(select(func.count()).select_from(Snapshot)) == counted
    assert torn.execute(preview, decisions={"a": "use_main", "b": "use_main"})[0] == 200


@pytest.mark.parametrize(
    "body",
    [
        {"preview_id": 7},
        {"decisions": []},
        {"decisions": "use_main"},
        {"custom_values": "x"},
        {"create_snapshot_before": "yes"},
        {"create_snapshot_after": None},
    ],
)
def test_wrong_types_are_422(mine: ProjectsApi, body: dict[str, Any]) -> None:
    shop = SyncedProject(mine, {"a": "1"})
    status, answer = mine("post", f"/workspaces/{shop.copy}/sync/execute", body)
    assert (status, answer["error"]["code"]) == (422, "VALIDATION_ERROR")


def test_snapshots_before_and_after_are_made_only_if_wanted(shop: SyncedProject) -> None:
    head = shop.state(shop.copy)["current_snapshot_id"]
    done = shop.sync(create_snapshot_before=False, create_snapshot_after=False)
    assert "snapshot_before_id" not in done
    assert "snapshot_after_id" not in done
    state = shop.state(shop.copy)
    assert (state["current_snapshot_id"], state["merge_history"]) == (head, None)
    assert shop.files()["text"] == MERGED
    assert shop.prepare()["auto_actions"] == []  # the files have it, though the history does not know


def test_a_workspace_that_only_lags_gets_the_files_of_main_as_they_are(mine: ProjectsApi) -> None:
    shop = SyncedProject(mine, {"a": "1", "b": "1"})
    shop.push(shop.main, {"a": "2", "c": "1"})
    shop.sync()
    states = [shop.state(each) for each in (shop.copy, shop.main)]
    assert states[0]["current_manifest_hash"] == states[1]["current_manifest_hash"]
    assert shop.files() == {"a": "2", "c": "1"}


def test_files_without_a_snapshot_take_part_and_are_kept(mine: ProjectsApi) -> None:
    shop = SyncedProject(mine, {"a": "1"})
    shop.push(shop.main, {"a": "1", "b": "main"})
    dirty = shop.tree({"a": "unsaved"})
    assert mine("post", f"/workspaces/{shop.copy}/current-manifest", {"manifest_hash": dirty})[0] == 200
    done = shop.sync()
    assert shop.files() == {"a": "unsaved", "b": "main"}
    assert shop.snapshot(done["snapshot_before_id"])["manifest_hash"] == dirty


def test_merges_of_main_are_noted_with_it(mine: ProjectsApi) -> None:
    shop = SyncedProject(mine, {"a": "1"})
    third = mine.workspace(shop.id, "third", base_snapshot_id=shop.base)
    head = shop.push(third, {"a": "1", "b": "third"})
    assert mine("post", f"/workspaces/{third}/set-as-main")[0] == 200
    first, shop.copy = shop.copy, shop.main
    shop.sync()
    assert mine("post", f"/workspaces/{shop.main}/set-as-main")[0] == 200
    shop.copy = first
    shop.sync()
    history = shop.state(first)["merge_history"]
    assert set(history) == {shop.main, third}
    assert history[third]["last_merged_snapshot"] == head


# -- refusals -----------------------------------------------------------------------------------------------------------


def test_what_cannot_be_prepared_says_why(session: OrmSession, mine: ProjectsApi) -> None:
    shop = SyncedProject(mine, {"a": "1"})

    def refused(workspace: str) -> tuple[int, str]:
        status, answer = mine("post", f"/workspaces/{workspace}/sync/prepare")
        return status, answer["error"]["code"]

    assert refused(shop.main) == (400, "INVALID_OPERATION")
    empty = mine.workspace(shop.id, "empty")
    assert refused(empty) == (400, "NO_SNAPSHOT")
    assert mine("post", f"/workspaces/{empty}/set-as-main")[0] == 200
    assert refused(shop.copy) == (400, "NO_SNAPSHOT")
    session.execute(update(Project).values(main_workspace_id=None))
    session.commit()
    assert refused(shop.copy) == (400, "NO_MAIN_WORKSPACE")


def test_files_that_are_not_there_are_named(mine: ProjectsApi) -> None:
    shop = SyncedProject(mine, {"a": "1"})
    shop.push_manifest(shop.main, mine.manifest(typed({"a": "1", "b": "never sent"})))
    status, answer = mine("post", f"/workspaces/{shop.copy}/sync/prepare")
    assert (status, answer["error"]["code"]) == (409, "MANIFEST_INVALID")
    assert answer["error"]["details"]["missingBlobs"] == [sha("never sent")]
    mine.blob("never sent")
    assert mine("post", f"/workspaces/{shop.copy}/sync/prepare")[0] == 200
    path = f"/workspaces/{shop.copy}/current-manifest"
    assert mine("post", path, {"manifest_hash": "0" * 64})[0] == 200
    status, answer = mine("post", f"/workspaces/{shop.copy}/sync/prepare")
    assert (status, answer["error"]["code"]) == (404, "MANIFEST_NOT_FOUND")


def test_a_text_that_is_no_manifest_is_a_parse_error(mine: ProjectsApi) -> None:
    shop = SyncedProject(mine, {"a": "1"})
    shop.push_manifest(shop.main, mine.manifest(b"no manifest"))
    status, answer = mine("post", f"/workspaces/{shop.copy}/sync/prepare")
    assert (status, answer["error"]["code"]) == (500, "PARSE_ERROR")


@pytest.mark.parametrize("preview", [None, ""])
def test_an_execution_needs_a_preview(shop: SyncedProject, preview: str | None) -> None:
    status, answer = shop.execute(preview)
    assert (status, answer["error"]["code"]) == (400, "MISSING_PREVIEW_ID")


@pytest.mark.parametrize("preview", ["X" * 26, "x" * 5_000, "'"])
def test_an_unknown_preview_is_404(shop: SyncedProject, preview: str) -> None:
    status, answer = shop.execute(preview)
    assert (status, answer["error"]["code"]) == (404, "PREVIEW_EXPIRED")


def test_a_preview_is_executed_once_and_for_half_an_hour(session: OrmSession, shop: SyncedProject) -> None:
    late, used = shop.prepare()["id"], shop.prepare()["id"]
    session.execute(
        update(SyncPreview)
        .where(SyncPreview.id == late)
        .values(created_at=SyncPreview.created_at - LIFETIME, expires_at=SyncPreview.expires_at - LIFETIME)
    )
    session.commit()
    assert shop.execute(late)[1]["error"]["code"] == "PREVIEW_EXPIRED"
    assert shop.execute(used)[0] == 200
    status, answer = shop.execute(used)
    assert (status, answer["error"]["code"]) == (404, "PREVIEW_EXPIRED")


def test_a_preview_of_another_workspace_is_refused(shop: SyncedProject, mine: ProjectsApi) -> None:
    other = mine.workspace(shop.id, "other", base_snapshot_id=shop.base)
    preview = shop.prepare()["id"]
    status, answer = mine("post", f"/workspaces/{other}/sync/execute", {"preview_id": preview})
    assert (status, answer["error"]["code"]) == (400, "WORKSPACE_MISMATCH")


def _push_main(shop: SyncedProject) -> None:
    shop.push(shop.main, {"a": "3"})


def _push_copy(shop: SyncedProject) -> None:
    shop.push(shop.copy, {"a": "3"})


def _change_files(shop: SyncedProject) -> None:
    current = shop.state(shop.copy)["current_manifest_hash"]
    body = {"manifest_hash": shop.tree({"a": "3"}), "previous_manifest_hash": current}
    assert shop.api("post", f"/workspaces/{shop.copy}/current-manifest", body)[0] == 200


def _choose_main(shop: SyncedProject) -> None:
    third = shop.api.workspace(shop.id, "third", base_snapshot_id=shop.base)
    assert shop.api("post", f"/workspaces/{third}/set-as-main")[0] == 200


@pytest.mark.parametrize(
    ("move", "moved"),
    [
        (_push_main, "main"),
        (_push_copy, "workspace"),
        (_change_files, "workspace"),
        (_choose_main, "main"),
    ],
)
def test_a_preview_is_stale_when_a_head_moved(
    shop: SyncedProject, move: Callable[[SyncedProject], None], moved: str
) -> None:
    preview = shop.prepare()["id"]
    move(shop)
    before = shop.state(shop.copy), shop.operations()
    status, answer = shop.execute(preview)
    assert (status, answer["error"]["code"]) == (409, "PREVIEW_STALE")
    assert answer["error"]["details"]["moved"] == [moved]
    assert (shop.state(shop.copy), shop.operations()) == before


def test_the_version_is_compared_if_it_is_sent(shop: SyncedProject) -> None:
    preview = shop.prepare()
    status, answer = shop.execute(preview["id"], version='"1"')
    assert (status, answer["error"]["code"]) == (409, "VERSION_CONFLICT")
    assert shop.execute(preview["id"], version=f'"{preview["workspace_version"]}"')[0] == 200


# -- undo ---------------------------------------------------------------------------------------------------------------


def test_a_sync_is_undone_redone_and_made_again(shop: SyncedProject, mine: ProjectsApi) -> None:
    before, state = shop.files(), shop.state(shop.copy)
    done = shop.sync()
    after, merged = shop.files(), shop.state(shop.copy)["merge_history"]

    def undo(operation: str) -> str:
        status, body = mine("post", f"/workspaces/{shop.copy}/operations/{operation}/undo")
        assert status == 200, body
        return str(body["operation"]["id"])

    undone = undo(done["operation_id"])
    assert shop.files() == before
    now_state = shop.state(shop.copy)
    assert now_state["current_snapshot_id"] == state["current_snapshot_id"]
    assert now_state["merge_history"] is None
    assert len(shop.prepare()["auto_actions"]) == 4
    undo(undone)
    assert (shop.files(), shop.state(shop.copy)["merge_history"]) == (after, merged)
    undo(shop.operations()[0]["id"])
    shop.sync()
    assert shop.files() == after


def test_an_old_sync_is_undone_and_later_work_kept(shop: SyncedProject, mine: ProjectsApi) -> None:
    done = shop.sync()
    shop.push(shop.copy, {**shop.files(), "later": "1"})
    status, body = mine("post", f"/workspaces/{shop.copy}/operations/{done['operation_id']}/undo")
    assert status == 200, body
    assert shop.files() == {
        "a": "1",
        "gone": "1",
        "same": "1",
        "own": "1",
        "later": "1",
        "text": LINES.replace("seven", "SEVEN"),
    }


def test_a_restored_snapshot_forgets_the_merges_that_it_does_not_have(
    shop: SyncedProject, mine: ProjectsApi
) -> None:
    before = shop.files()
    done = shop.sync()
    path = f"/workspaces/{shop.copy}/sync/undo"
    for snapshot, merges in (("snapshot_after_id", [shop.main]), ("snapshot_before_id", [])):
        assert mine("post", path, {"snapshot_id": done[snapshot]}) == (
            200,
            {"success": True, "restored_snapshot_id": done[snapshot]},
        )
        assert list(shop.state(shop.copy)["merge_history"]) == merges
    assert shop.files() == before


# -- storage ------------------------------------------------------------------------------------------------------------


def test_files_of_an_open_preview_are_no_garbage(
    session: OrmSession, shop: SyncedProject, alice: Person
) -> None:
    def collect() -> set[str]:
        session.execute(update(Blob).values(used_at=func.now() - timedelta(days=2)))
        session.execute(update(Manifest).values(used_at=func.now() - timedelta(days=2)))
        session.execute(update(Pack).values(created_at=func.now() - timedelta(days=2)))
        session.commit()
        blob_garbage.collect(alice.id, dry_run=False)
        session.commit()
        return set(session.scalars(select(Blob.sha256)))

    preview = shop.prepare()["id"]
    assert sha(MERGED) in collect()
    assert shop.execute(preview)[0] == 200
    assert shop.files()["text"] == MERGED
    operation = shop.operations()[0]["id"]
    assert shop.api("post", f"/workspaces/{shop.copy}/operations/{operation}/undo")[0] == 200
    assert sha(MERGED) in collect()  # an operation names it


def test_files_of_an_expired_preview_are_garbage(
    session: OrmSession, shop: SyncedProject, alice: Person
) -> None:
    shop.prepare()
    session.execute(
        update(SyncPreview).values(
            created_at=SyncPreview.created_at - LIFETIME, expires_at=SyncPreview.expires_at - LIFETIME
        )
    )
    session.execute(update(Blob).values(used_at=func.now() - timedelta(days=2)))
    session.commit()
    blob_garbage.collect(alice.id, dry_run=False)
    session.commit()
    assert sha(MERGED) not in set(session.scalars(select(Blob.sha256)))


def test_old_previews_give_way(session: OrmSession, shop: SyncedProject) -> None:
    ids = [shop.prepare()["id"] for _ in range(MAX_OPEN + 2)]
    assert set(session.scalars(select(SyncPreview.id))) == set(ids[2:])
    assert shop.execute(ids[-1])[0] == 200
    session.rollback()
    forget_previews(now() + LIFETIME + KEPT - timedelta(minutes=1))
    assert len(session.scalars(select(SyncPreview.id)).all()) == MAX_OPEN
    forget_previews(now() + LIFETIME + KEPT + timedelta(minutes=1))
    assert session.scalars(select(SyncPreview)).all() == []
    session.rollback()


def test_a_project_goes_with_its_previews(session: OrmSession, shop: SyncedProject) -> None:
    shop.prepare()
    forget_projects([shop.id])
    assert session.scalars(select(SyncPreview)).all() == []
    session.rollback()


# -- who may ------------------------------------------------------------------------------------------------------------


def test_strangers_find_no_sync(
    client: FlaskClient, shop: SyncedProject, mallory: Person, anonymous: Person
) -> None:
    preview = shop.prepare()["id"]
    theirs, nobody = ProjectsApi(client, mallory), ProjectsApi(client, anonymous)
    for verb, body in (("prepare", None), ("execute", {"preview_id": preview}), ("execute", {})):
        path = f"/workspaces/{shop.copy}/sync/{verb}"
        assert nobody("post", path, body)[0] == 401
        status, answer = theirs("post", path, body)
        assert (status, answer["error"]["code"]) == (404, "NOT_FOUND")
        assert answer == theirs("post", f"/workspaces/{'Y' * 26}/sync/{verb}", body)[1]
    own = SyncedProject(theirs, {"a": "1"})
    unknown = own.execute("X" * 26)
    assert (own.execute(preview), unknown[0]) == (unknown, 404)
    assert shop.execute(preview)[0] == 200


def test_members_sync_with_previews_of_their_own(
    client: FlaskClient, session: OrmSession, alice: Person, bob: Person, mallory: Person, acme: Org
) -> None:
    hers, his = ProjectsApi(client, alice), ProjectsApi(client, bob)
    shop = SyncedProject(hers, {"a": "1"}, f"?org_id={acme.slug}")
    shop.push(shop.main, {"a": "2"})
    preview = shop.prepare()["id"]
    status, answer = shop.execute(preview, api=his)
    assert (status, answer["error"]["code"]) == (403, "FORBIDDEN")
    factories.join(acme, mallory.id, "viewer")
    for verb, body in (("prepare", None), ("execute", {"preview_id": preview})):
        path = f"/workspaces/{shop.copy}/sync/{verb}"
        status, answer = ProjectsApi(client, mallory)("post", path, body)
        assert (status, answer["error"]["code"]) == (403, "FORBIDDEN")
    assert shop.execute(shop.prepare(api=his)["id"], api=his)[0] == 200
    assert shop.operations()[0]["user_id"] == bob.id
    assert shop.execute(preview)[1]["error"]["code"] == "PREVIEW_STALE"
