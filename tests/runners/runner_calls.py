"""Calls of the JSON routes of runners, as a runner makes them."""

from typing import Any

from flask.testing import FlaskClient

from tests.factories import Person
from tests.projects.project_calls import ProjectsApi


class RunnerCalls:
    """A runner of a person, or the routes with any key."""

    def __init__(self, client: FlaskClient, token: str) -> None:
        self.client, self.headers = client, {"authorization": f"Bearer {token}"}

    def __call__(self, path: str, **body: Any) -> tuple[int, Any]:
        answer = self.client.post(f"/v1/runners{path}", json=body, headers=self.headers)
        return answer.status_code, answer.json

    def poll(self, **body: Any) -> Any:
        """The work that it gets, or None."""
        status, found = self("/work/poll", **body)
        assert status in (200, 204), found
        return found["work"] if status == 200 else None

    def about(self, work: Any, what: str, **body: Any) -> tuple[int, Any]:
        """A request about a work, with its lease."""
        return self(f"/work/{work['id']}/{what}", **{"lease": work["lease"], **body})


def made_runner(person: Person, client: FlaskClient, name: str = "laptop", *labels: str) -> RunnerCalls:
    """A new runner of the person."""
    status, found = ProjectsApi(client, person)("post", "/runners", {"name": name, "labels": list(labels)})
    assert status == 201, found
    return RunnerCalls(client, found["token"])
