"""Projects with files that are a site, their deployments, and requests to hosts of sites."""

from typing import Any

from flask.testing import FlaskClient

from tests.projects.project_calls import ProjectsApi

INDEX = "<!doctype html><title>Pier</title><p>one"
SITE = {"index.html": INDEX, "about.html": "<p>about", "docs/index.html": "<p>docs", "style.css": "p{}"}


class SiteCalls:
    """A project with a workspace `main`, its API, and its site."""

    def __init__(self, api: ProjectsApi) -> None:
        self.api, self.client = api, api.client
        self.project = api.project("Pier · the long one")
        self.workspace = api.workspace(self.project)

    def push(self, files: dict[str, str], parents: list[str] | None = None) -> str:
        return self.api.push(
            self.project, self.api.tree(files), workspace_id=self.workspace, parent_snapshot_ids=parents or []
        )

    def deploy(self, **more: Any) -> dict[str, Any]:
        status, body = self.api("post", f"/workspaces/{self.workspace}/deploy", headers=more.get("headers"))
        assert status == 200, body
        return dict(body)

    def live(self, files: dict[str, str]) -> str:
        """Push and deploy; the host of the site."""
        self.push(files)
        made = self.deploy()
        assert made["status"] == "success", made
        return host_of(made["url"])

    def change(self, **settings: Any) -> tuple[int, Any]:
        path = f"/infrastructure/workspaces/{self.workspace}/deployment-settings"
        return self.api("put", path, settings)


def host_of(url: str) -> str:
    return url.removeprefix("http://").removesuffix("/")


def fetch(client: FlaskClient, host: str, path: str = "/", method: str = "GET", **headers: str) -> Any:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.open(path, method=method, headers={"Host": host, **sent}, buffered=True)
