"""The public GraphQL API of Railway, as far as deployments need it: projects, services, variables, uploads, deployments, logs."""

from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any, NamedTuple
from urllib.parse import quote, urlsplit

from models.core.db import extension
from models.deployments.deployment_adapter import DeploymentFailed, ProviderLine
from models.deployments.provider_calls import ProviderMissing, call, first_message, moment_of

WHO = "Railway"
UPLOAD_SECONDS = 300.0
PAGES = 20
"""Pages of projects that are looked through."""
NEWEST = 20
"""Deployments of a service that are looked through."""


class RailwayPlace(NamedTuple):
    """A service of a project in one of its environments, by id."""

    project: str
    environment: str
    service: str


class RailwayDeployment(NamedTuple):
    """A deployment at Railway: its id, its state, what was written about it, and whether it can be rolled back to."""

    id: str
    status: str
    meta: Mapping[str, Any]
    can_roll_back: bool


class RailwayApi:
    """Railway as one token reaches it. All methods block, and raise DeploymentFailed and ProviderBusy."""

    def __init__(self, token: str) -> None:
        self._token = token

    def project_named(self, name: str, workspace: str | None) -> str | None:
        """The project with this name."""
        query = """query projects($workspaceId: String, $first: Int, $after: String) {
            projects(workspaceId: $workspaceId, first: $first, after: $after) {
                edges { node { id name } } pageInfo { hasNextPage endCursor } } }"""
        after = None
        for _ in range(PAGES):
            asked = {"workspaceId": workspace, "first": 100, "after": after}
            listed = _part(self.ask(query, asked), "projects")
            for node in _nodes(listed):
                if node.get("name") == name and node.get("id"):
                    return str(node["id"])
            page = _part(listed, "pageInfo")
            if not page.get("hasNextPage"):
                return None
            after = page.get("endCursor")
        raise DeploymentFailed("The account at Railway has too many projects to look through.")

    def make_project(self, name: str, workspace: str | None) -> str:
        """Make a project; its id."""
        query = "mutation projectCreate($input: ProjectCreateInput!) { projectCreate(input: $input) { id } }"
        wanted = {"name": name, "defaultEnvironmentName": "production"}
        if workspace:
            wanted["workspaceId"] = workspace
        return _id(self.ask(query, {"input": wanted}), "projectCreate")

    def parts_of(self, project: str) -> tuple[str, Mapping[str, str]]:
        """The environment of a project that is deployed to, and its services by name. Raises ProviderMissing."""
        query = """query project($id: String!) { project(id: $id) {
            services { edges { node { id name } } } environments { edges { node { id name } } } } }"""
        found = self.ask(query, {"id": project}).get("project")
        if not isinstance(found, dict):
            raise ProviderMissing("Railway no longer has the project.")
        environments = [each for each in _nodes(found.get("environments")) if each.get("id")]
        first = next((each for each in environments if each.get("name") == "production"), None)
        chosen = first or next(iter(environments), None)
        if chosen is None:
            raise DeploymentFailed("The project at Railway has no environment to deploy to.")
        services = {str(each.get("name")): str(each.get("id")) for each in _nodes(found.get("services"))}
        return str(chosen["id"]), services

    def make_service(self, project: str, environment: str, name: str) -> str:
        """Make a service without a source; its id."""
        query = "mutation serviceCreate($input: ServiceCreateInput!) { serviceCreate(input: $input) { id } }"
        wanted = {"projectId": project, "environmentId": environment, "name": name}
        return _id(self.ask(query, {"input": wanted}), "serviceCreate")

    def set_commands(self, place: RailwayPlace, build: str | None, start: str | None) -> None:
        """How the service is built and started; None lets Railway find it."""
        query = """mutation serviceInstanceUpdate($serviceId: String!, $environmentId: String!, $input: ServiceInstanceUpdateInput!) {
            serviceInstanceUpdate(serviceId: $serviceId, environmentId: $environmentId, input: $input) }"""
        wanted = {"buildCommand": build, "startCommand": start}
        self.ask(query, {"serviceId": place.service, "environmentId": place.environment, "input": wanted})

    def set_variables(self, place: RailwayPlace, values: Mapping[str, str]) -> None:
        """Give the service these variables; others stay. Nothing is deployed by it."""
        query = """mutation variableCollectionUpsert($input: VariableCollectionUpsertInput!) {
            variableCollectionUpsert(input: $input) }"""
        wanted = _input(place) | {"variables": dict(values), "skipDeploys": True}
        self.ask(query, {"input": wanted})

    def domain_of(self, place: RailwayPlace) -> str:
        """The host of the service: one of the user's own, else Railway's, which is made if there is none."""
        query = """query domains($projectId: String!, $environmentId: String!, $serviceId: String!) {
            domains(projectId: $projectId, environmentId: $environmentId, serviceId: $serviceId) {
                serviceDomains { domain } customDomains { domain } } }"""
        found = _part(self.ask(query, _input(place)), "domains")
        for kind in ("customDomains", "serviceDomains"):
            if rows := [each for each in _list(found.get(kind)) if each.get("domain")]:
                return str(rows[0]["domain"])
        make = """mutation serviceDomainCreate($input: ServiceDomainCreateInput!) {
            serviceDomainCreate(input: $input) { domain } }"""
        wanted = {"serviceId": place.service, "environmentId": place.environment}
        made = _part(self.ask(make, {"input": wanted}), "serviceDomainCreate")
        if not made.get("domain"):
            raise DeploymentFailed("Railway gave the service no address.")
        return str(made["domain"])

    def upload(self, place: RailwayPlace, archive: IO[bytes], message: str) -> str:
        """Upload an archive, which Railway builds and deploys; the id of the deployment."""
        parts = urlsplit(extension("settings").railway_base_url)
        where = f"{parts.scheme}://{parts.netloc}/project/{quote(place.project)}/environment/{quote(place.environment)}/up"
        answer = call(
            WHO,
            "POST",
            where,
            self._token,
            seconds=UPLOAD_SECONDS,
            params={"serviceId": place.service, "message": message},
            headers={"Content-Type": "application/gzip"},
            data=archive,
        )
        if not answer.said.get("deploymentId"):
            raise DeploymentFailed("Railway took the files, but names no deployment of them.")
        return str(answer.said["deploymentId"])

    def deployments(self, place: RailwayPlace) -> list[RailwayDeployment]:
        """The newest deployments of the service, the newest first."""
        query = """query deployments($input: DeploymentListInput!, $first: Int) {
            deployments(input: $input, first: $first) { edges { node { id status meta canRollback } } } }"""
        found = self.ask(query, {"input": _input(place), "first": NEWEST}).get("deployments")
        return [_deployment(each) for each in _nodes(found) if each.get("id")]

    def deployment(self, id: str) -> RailwayDeployment | None:
        """A deployment; None if there is none."""
        query = "query deployment($id: String!) { deployment(id: $id) { id status meta canRollback } }"
        try:
            found = self.ask(query, {"id": id}).get("deployment")
        except ProviderMissing:
            return None
        return _deployment(found) if isinstance(found, dict) and found.get("id") else None

    def roll_back(self, id: str) -> None:
        """Begin a deployment with what this one had."""
        self.ask("mutation deploymentRollback($id: String!) { deploymentRollback(id: $id) }", {"id": id})

    def logs(self, kind: str, id: str, limit: int) -> Sequence[ProviderLine]:
        """The last lines of a deployment: `buildLogs` or `deploymentLogs`, in order."""
        query = f"""query {kind}($deploymentId: String!, $limit: Int) {{
            {kind}(deploymentId: $deploymentId, limit: $limit) {{ timestamp message severity }} }}"""
        rows = _list(self.ask(query, {"deploymentId": id, "limit": limit}).get(kind))
        return [
            ProviderLine(
                moment_of(each.get("timestamp")),
                "stderr" if str(each.get("severity")).lower() in ("error", "fatal", "critical") else "stdout",
                str(each.get("message") or ""),
            )
            for each in rows[-limit:]
        ]

    def delete_service(self, id: str) -> None:
        """Delete a service with all of its deployments; one that is gone already is fine."""
        try:
            self.ask("mutation serviceDelete($id: String!) { serviceDelete(id: $id) }", {"id": id})
        except ProviderMissing:
            return

    def ask(self, query: str, variables: Mapping[str, Any]) -> Mapping[str, Any]:
        """The `data` of an answer without errors."""
        url = extension("settings").railway_base_url
        said = call(WHO, "POST", url, self._token, json={"query": query, "variables": dict(variables)}).said
        if said.get("errors"):
            raise _fault(first_message(said))
        return _part(said, "data")


def _fault(reason: str) -> DeploymentFailed:
    words = reason.lower()
    if "not authorized" in words or "unauthorized" in words:
        return DeploymentFailed("Railway no longer accepts the token. Store a new one under Connections.")
    if "not found" in words:
        return ProviderMissing(f"Railway has no such thing{reason}.")
    return DeploymentFailed(f"Railway refused{reason}.")


def _deployment(node: Mapping[str, Any]) -> RailwayDeployment:
    return RailwayDeployment(
        str(node["id"]),
        str(node.get("status") or "").upper()[:40],
        _part(node, "meta"),
        node.get("canRollback") is True,
    )


def _input(place: RailwayPlace) -> dict[str, Any]:
    return {"projectId": place.project, "environmentId": place.environment, "serviceId": place.service}


def _id(data: Mapping[str, Any], field: str) -> str:
    made = _part(data, field).get("id")
    if not made:
        raise DeploymentFailed("Railway does not answer as expected.")
    return str(made)


def _nodes(value: Any) -> Iterator[Mapping[str, Any]]:
    for edge in _list(value.get("edges") if isinstance(value, dict) else None):
        if isinstance(edge.get("node"), dict):
            yield edge["node"]


def _list(value: Any) -> list[Mapping[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _part(value: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = value.get(key)
    return found if isinstance(found, dict) else {}
