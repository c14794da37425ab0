"""Prepared syncs that are read again: the preview, whether it is stale, and the versions of its files."""

from typing import Any
from urllib.parse import quote

import pytest
from flask.testing import FlaskClient
from sqlalchemy import select, update
from sqlalchemy.orm import Session as OrmSession

from models.orgs import Org
from models.projects import SyncPreview
from models.projects.sync import sync_reading
from models.projects.sync.sync_preview import LIFETIME
from models.projects.sync.sync_texts import MAX_SHOWN
from tests.factories import Person
from tests.projects.project_calls import ProjectsApi
from tests.projects.project_rows import caller_of
from tests.projects.synced_project import LINES, SyncedProject

pytestmark = pytest.mark.usefixtures("proved")
LONG = "x" * (MAX_SHOWN + 1)
BASE = {
    "text": LINES,
    "torn": "1\n",
    "gone": "gone\n",
    "deep/er/moved": LINES,
    "bytes": "\0",
    "long": "x",
    "same": "1",
}


@pytest.fixture
def shop(mine: ProjectsApi) -> SyncedProject:
    made = SyncedProject(mine, BASE)
    main = {**BASE, "text": LINES.replace("one", "ONE"), "torn": "main\n", "long": LONG, "new": "new\n"}
    main |= {"bytes": "\0main", "deep/here": main.pop("deep/er/moved")}
    del main["gone"]
    made.push(made.main, main)
    copy = {**BASE, "text": LINES.replace("seven", "SEVEN"), "torn": "copy\n", "bytes": "\0copy"}
    made.push(made.copy, {**copy, "deep/er/moved": LINES.replace("four", "FOUR")})
    return made


def read(shop: SyncedProject, preview: str, path: str | None = None, api: ProjectsApi | None = None) -> Any:
    more = "" if path is None else f"/file?path={quote(path)}"
    return (api or shop.api)("get", f"/workspaces/{shop.copy}/sync/previews/{preview}{more}")


def test_a_preview_is_read_as_it_was_prepared(session: OrmSession, shop: SyncedProject) -> None:
    preview = shop.prepare()
    before = shop.state(shop.copy), shop.operations()
    assert read(shop, preview["id"]) == (200, {"preview": preview, "moved": []})
    assert (shop.state(shop.copy), shop.operations()) == before
    assert shop.execute(preview["id"], decisions={"torn": "use_main", "bytes": "use_main"})[0] == 200
    assert read(shop, preview["id"])[1]["error"]["code"] == "PREVIEW_EXPIRED"


def test_a_stored_preview_says_which_heads_moved(shop: SyncedProject) -> None:
    preview = shop.prepare()["id"]
    shop.push(shop.main, {"a": "3"})
    assert read(shop, preview)[1]["moved"] == ["main"]
    shop.push(shop.copy, {"a": "3"})
    assert read(shop, preview)[1]["moved"] == ["workspace", "main"]
    assert read(shop, preview, "text")[1]["file"]["main"]["text"] == LINES.replace("one", "ONE")


MERGED = LINES.replace("one", "ONE").replace("seven", "SEVEN")
VERSIONS: dict[str, tuple[str, str | None, Any, Any, Any, Any]] = {
    # label, renamed from, texts of base, main, workspace and result; ... is none for a reason
    "text": ("lines", None, LINES, LINES.replace("one", "ONE"), LINES.replace("seven", "SEVEN"), MERGED),
    "new": ("one-sided", None, None, "new\n", None, "new\n"),
    "gone": ("one-sided", None, "gone\n", None, "gone\n", None),
    "torn": ("decision", None, "1\n", "main\n", "copy\n", None),
    "deep/here": (
        *("renamed", "deep/er/moved", LINES, LINES),
        *(LINES.replace("four", "FOUR"), LINES.replace("four", "FOUR")),
    ),
    "deep/er/moved": ("renamed", None, LINES, None, LINES.replace("four", "FOUR"), None),
    "bytes": ("decision", None, ..., ..., ..., None),
    "long": ("one-sided", None, "x", ..., "x", ...),
}


def test_the_files_of_a_preview_are_read_in_their_versions(shop: SyncedProject) -> None:
    preview = shop.prepare()
    named = [each["path"] for each in [*preview["auto_actions"], *preview["decisions_needed"]]]
    assert set(named) == set(VERSIONS)
    for path, (label, source, *texts) in VERSIONS.items():
        file = read(shop, preview["id"], path)[1]["file"]
        assert (file["path"], file["label"], file["renamed_from"]) == (path, label, source)
        for name, text in zip(("base", "main", "workspace", "result"), texts, strict=True):
            version = file[name]
            if text is ...:
                lack = "binary" if path == "bytes" else "long"
                assert (version["text"], version["lack"]) == (None, lack), (path, name)
            else:
                assert (version and version["text"]) == text, (path, name)
        assert ("<<<<<<<" in (file["draft"] or "")) == (path == "torn")


def test_a_decision_about_several_paths_is_read_at_each(mine: ProjectsApi) -> None:
    shop = SyncedProject(mine, {"was": LINES})
    shop.push(shop.main, {"theirs": LINES})
    shop.push(shop.copy, {"ours": LINES})
    preview = shop.prepare()
    [decision] = preview["decisions_needed"]
    assert decision["reason"] == "renamed_apart"
    texts = {}
    for path in ("ours", "theirs"):
        file = read(shop, preview["id"], path)[1]["file"]
        assert file["label"] == "decision"
        texts[path] = [file[name] and file[name]["text"] for name in ("base", "main", "workspace")]
    assert texts == {"ours": [None, None, LINES], "theirs": [None, LINES, None]}


def test_all_texts_together_have_a_limit(
    session: OrmSession, mine: ProjectsApi, alice: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = SyncedProject(mine, {"a": "1", "b": "2"})
    shop.push(shop.main, {"a": "1" * 600, "b": "2" * 600})
    preview = shop.prepare()["id"]
    monkeypatch.setattr(sync_reading, "MAX_ALL", 1_000)
    stored = sync_reading.stored_sync(caller_of(alice.id, alice.account), shop.copy, preview)
    first, second = sync_reading.previewed_files(stored, ["b", "a"])
    assert first.main is not None
    assert second.main is not None
    assert (first.main.text, second.main.lack) == ("2" * 600, "long")


@pytest.mark.parametrize("path", ["same", "unknown", "", "a\0b", "../text", "deep", "x" * 9_000])
def test_a_path_that_the_preview_does_not_change_is_404(shop: SyncedProject, path: str) -> None:
    status, answer = read(shop, shop.prepare()["id"], path)
    assert (status, answer["error"]["code"]) == (404, "NOT_FOUND")


def test_only_who_prepared_a_preview_reads_it(
    client: FlaskClient,
    session: OrmSession,
    alice: Person,
    bob: Person,
    mallory: Person,
    anonymous: Person,
    acme: Org,
) -> None:
    shop = SyncedProject(ProjectsApi(client, alice), {"a": "1"}, f"?org_id={acme.slug}")
    shop.push(shop.main, {"a": "2"})
    preview = shop.prepare()["id"]
    other = shop.api.workspace(shop.id, "other", base_snapshot_id=shop.base)
    for path in (None, "a"):
        assert read(shop, preview, path)[0] == 200
        assert read(shop, preview, path, ProjectsApi(client, anonymous))[0] == 401
        stranger = ProjectsApi(client, mallory)
        found = read(shop, preview, path, stranger)
        assert (found[0], found[1]["error"]["code"]) == (404, "NOT_FOUND")
        assert found == read(shop, "X" * 26, path, stranger)
        status, answer = read(shop, preview, path, ProjectsApi(client, bob))
        assert (status, answer["error"]["code"]) == (403, "FORBIDDEN")
        assert read(shop, "X" * 26, path)[1]["error"]["code"] == "PREVIEW_EXPIRED"
        here, shop.copy = shop.copy, other
        assert read(shop, preview, path)[1]["error"]["code"] == "WORKSPACE_MISMATCH"
        shop.copy = here
    lifetime = {
        "created_at": SyncPreview.created_at - LIFETIME,
        "expires_at": SyncPreview.expires_at - LIFETIME,
    }
    session.execute(update(SyncPreview).values(lifetime))
    session.commit()
    assert read(shop, preview)[1]["error"]["code"] == "PREVIEW_EXPIRED"
    assert session.scalars(select(SyncPreview.state)).all() == ["open"]
