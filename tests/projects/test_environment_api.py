"""Environment variables: masks, upserts, and that values are stored sealed."""

from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session as OrmSession

from models.projects.environment import EnvironmentVariable
from tests.projects.project_calls import ProjectsApi


@pytest.fixture
def path(mine: ProjectsApi) -> str:
    return f"/projects/{mine.project()}/env-vars"


def shown(api: ProjectsApi, path: str) -> dict[str, tuple[str, bool]]:
    found = api("get", path)[1]["variables"]
    assert [each["key"] for each in found] == sorted(each["key"] for each in found)
    return {each["key"]: (each["value"], each["is_secret"]) for each in found}


@pytest.mark.parametrize(
    ("value", "mask"), [("", "****"), ("abcd", "****"), ("abcde", "****bcde"), ("é" * 9, "****éééé")]
)
def test_secrets_are_masked(mine: ProjectsApi, path: str, value: str, mask: str) -> None:
    assert mine("post", path, {"key": "B", "value": value, "is_secret": True}) == (200, {"success": True})
    mine("post", path, {"key": "A", "value": value})
    assert shown(mine, path) == {"A": (value, False), "B": (mask, True)}
    values = mine("get", f"{path}/values")[1]["variables"]
    assert values == [
        {"key": "A", "value": value, "is_secret": False},
        {"key": "B", "value": value, "is_secret": True},
    ]


def test_a_variable_stays_secret_unless_the_client_says_otherwise(mine: ProjectsApi, path: str) -> None:
    for secret, expected in ((True, True), (None, True), (False, False), (None, False)):
        body: dict[str, Any] = {"key": "A", "value": "123456"}
        mine("post", path, body if secret is None else {**body, "is_secret": secret})
        assert shown(mine, path)["A"][1] is expected


def test_several_are_set_and_others_stay(mine: ProjectsApi, path: str) -> None:
    mine("post", path, {"key": "A", "value": "1"})
    sent = [
        {"key": "B", "value": "2"},
        {"key": "1B", "value": "2"},
        {"key": "C", "value": "", "is_secret": True},
        {"key": "a b", "value": "2"},
    ]
    assert mine("put", path, {"variables": sent}) == (
        200,
        {"success": True, "count": 2, "skipped": ["1B", "a b"]},
    )
    assert list(shown(mine, path)) == ["A", "B", "C"]
    for _ in range(2):
        assert mine("delete", f"{path}/B") == (200, {"success": True})
    assert list(shown(mine, path)) == ["A", "C"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"key": "A"},
        {"key": "A", "value": None},
        {"key": "A", "value": 7},
        {"key": "", "value": "x"},
        {"key": "1A", "value": "x"},
        {"key": "A-B", "value": "x"},
        {"key": "A\n", "value": "x"},
        {"key": "A" * 201, "value": "x"},
        {"key": "A", "value": "x" * 70_000},
        {"key": "A", "value": "x", "is_secret": "yes"},
    ],
)
def test_wrong_variables_are_422(mine: ProjectsApi, path: str, body: Any) -> None:
    status, answer = mine("post", path, body)
    assert (status, answer["error"]["code"]) == (422, "VALIDATION_ERROR")
    assert shown(mine, path) == {}


@pytest.mark.parametrize(
    "variables",
    [None, {}, "x", [7], [{"key": "A"}], [{"key": f"K{number}", "value": ""} for number in range(501)]],
)
def test_wrong_lists_of_variables_are_422(mine: ProjectsApi, path: str, variables: Any) -> None:
    assert mine("put", path, {"variables": variables})[0] == 422
    assert shown(mine, path) == {}


def test_a_project_has_a_limit_of_variables(mine: ProjectsApi, path: str) -> None:
    many = [{"key": f"K{number}", "value": ""} for number in range(500)]
    assert mine("put", path, {"variables": many})[0] == 200
    assert mine("post", path, {"key": "MORE", "value": ""})[0] == 409
    assert mine("post", path, {"key": "K0", "value": "1"})[0] == 200


def test_a_workspace_has_its_own_values_instead_of_the_projects(mine: ProjectsApi) -> None:
    project = mine.project()
    path = f"/projects/{project}/env-vars"
    one, two = (mine.workspace(project, name) for name in ("one", "two"))
    mine(
        "put",
        path,
        {
            "variables": [
                {"key": "A", "value": "all"},
                {"key": "B", "value": "all-of-them", "is_secret": True},
            ]
        },
    )
    for _ in range(2):
        assert (
            mine(
                "post",
                f"{path}?workspace_id={one}",
                {"key": "B", "value": "just-one-1234", "is_secret": True},
            )[0]
            == 200
        )
    mine("put", f"{path}?workspace_id={one}", {"variables": [{"key": "C", "value": "only"}]})
    assert shown(mine, path) == {"A": ("all", False), "B": ("****them", True)}
    assert shown(mine, f"{path}?workspace_id={two}") == shown(mine, path)
    assert shown(mine, f"{path}?workspace_id={one}") == {
        "A": ("all", False),
        "B": ("****1234", True),
        "C": ("only", False),
    }
    listed = mine("get", f"{path}?workspace_id={one}")[1]["variables"]
    assert [each["workspace_id"] for each in listed] == [None, one, one]
    values = mine("get", f"{path}/values?workspace_id={one}")[1]["variables"]
    assert [each["value"] for each in values] == ["all", "just-one-1234", "only"]
    for _ in range(2):
        assert mine("delete", f"{path}/B?workspace_id={one}")[0] == 200
    assert shown(mine, f"{path}?workspace_id={one}")["B"] == ("****them", True)
    mine("delete", f"{path}/A")
    assert list(shown(mine, f"{path}?workspace_id={one}")) == ["B", "C"]
    mine("delete", f"/workspaces/{two}")
    other = mine.workspace(mine.project("Other"))
    for id in (two, other, "x", "%00"):
        for method, tail, body in (
            ("get", "", None),
            ("get", "/values", None),
            ("post", "", {"key": "A", "value": "1"}),
            ("put", "", {"variables": []}),
            ("delete", "/B", None),
        ):
            assert mine(method, f"{path}{tail}?workspace_id={id}", body)[0] == 404, (id, method, tail)


def test_values_are_sealed_for_their_project_and_key(
    session: OrmSession, mine: ProjectsApi, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    mine("post", path, {"key": "A", "value": "a-plain-text-value"})
    row = session.scalars(select(EnvironmentVariable)).one()
    assert row.sealed.startswith("env2:")
    assert "plain" not in row.sealed
    mine("post", path, {"key": "B", "value": "other"})
    session.execute(
        update(EnvironmentVariable).where(EnvironmentVariable.key == "B").values(sealed=row.sealed)
    )
    session.commit()
    answer = mine.client.get(f"/v1{path}/values", headers=mine.headers)
    assert answer.status_code == 409
    assert "a-plain-text-value" not in answer.text + caplog.text
