"""Railway's GraphQL API and upload on loopback: a fake that checks operations, variables and the archive, and plays scripted states."""

import io
import re
import tarfile
from typing import Any

from flask import request


class FakeRailway:
    """Projects, services, domains and deployments by name or id. `states` are what the newest deployment says, one for each question; the last
    stays. `uploads` are the files of each upload."""

    def __init__(self, token: str) -> None:
        self.token = token
        self.states: list[str] = ["SUCCESS"]
        self.projects: dict[str, str] = {}
        self.services: dict[str, tuple[str, str]] = {}
        self.domains: dict[str, str] = {}
        self.variables: dict[str, dict[str, str]] = {}
        self.commands: dict[str, dict[str, Any]] = {}
        self.deployments: list[dict[str, Any]] = []
        self.uploads: list[dict[str, bytes]] = []
        self.asked: list[str] = []
        self.account = True
        self.can_roll_back = True
        self.log = "Built with nothing secret."

    def answer(self, path: str, token: str) -> Any:
        """What Railway says to the current request."""
        if path != "railway":
            return self._upload(path, token)
        body = request.get_json()
        match = re.match(r"\s*(query|mutation)\s+(\w+)?", body["query"])
        assert match, body
        name = match[2] or re.findall(r"\w+", body["query"])[1]
        self.asked.append(name)
        if token != self.token or (name == "me" and not self.account):
            return {"errors": [{"message": "Not Authorized"}], "data": None}
        try:
            return {"data": {name: getattr(self, f"_{name}")(**body.get("variables") or {})}}
        except KeyError as error:
            return {"errors": [{"message": f"{error} not found"}], "data": None}
        except (AssertionError, TypeError, AttributeError) as error:
            return {"errors": [{"message": f"The fake refuses {name}: {error}"}], "data": None}

    def _upload(self, path: str, token: str) -> Any:
        match = re.fullmatch(r"project/(\w+)/environment/(\w+)/up", path)
        if token != self.token or match is None:
            return {"message": "Not Authorized"}, 401
        assert request.headers["Content-Type"] == "application/gzip"
        service = request.args["serviceId"]
        assert self.services[service][0] == match[1]
        with tarfile.open(fileobj=io.BytesIO(request.get_data()), mode="r:gz") as archive:
            read = {each.name: archive.extractfile(each) for each in archive if each.isfile()}
            self.uploads.append({name: file.read() for name, file in read.items() if file})
        id = self._made(service, {"cliMessage": request.args["message"]})
        return {"deploymentId": id, "url": "", "logsUrl": "", "deploymentDomain": ""}

    def _made(self, service: str, meta: dict[str, str]) -> str:
        id = f"d{len(self.deployments) + 1}"
        self.deployments.insert(0, {"id": id, "service": service, "meta": meta})
        return id

    def _me(self) -> Any:
        return {"id": "r1", "name": "Ada"}

    def _apiToken(self) -> Any:
        return {"workspaces": [{"id": "w1", "name": "Ada's"}]}

    def _projects(self, workspaceId: str | None, first: int, after: str | None) -> Any:
        assert 0 < first <= 100
        rows = [{"node": {"id": id, "name": name}} for name, id in self.projects.items()]
        return {"edges": rows, "pageInfo": {"hasNextPage": False, "endCursor": None}}

    def _projectCreate(self, input: dict[str, Any]) -> Any:
        assert set(input) <= {"name", "defaultEnvironmentName", "workspaceId"}
        self.projects[input["name"]] = id = f"p{len(self.projects) + 1}"
        return {"id": id}

    def _project(self, id: str) -> Any:
        if id not in self.projects.values():
            raise KeyError("Project")
        services = [
            {"node": {"id": each, "name": name}} for each, (of, name) in self.services.items() if of == id
        ]
        return {
            "services": {"edges": services},
            "environments": {"edges": [{"node": {"id": "e1", "name": "production"}}]},
        }

    def _serviceCreate(self, input: dict[str, str]) -> Any:
        assert set(input) == {"projectId", "environmentId", "name"}
        id = f"s{len(self.services) + 1}"
        self.services[id] = (input["projectId"], input["name"])
        return {"id": id}

    def _serviceDelete(self, id: str) -> Any:
        del self.services[id]
        return True

    def _serviceInstanceUpdate(self, serviceId: str, environmentId: str, input: dict[str, Any]) -> Any:
        assert set(input) == {"buildCommand", "startCommand"}
        self.commands[serviceId] = input
        return True

    def _variableCollectionUpsert(self, input: dict[str, Any]) -> Any:
        assert input["skipDeploys"] is True
        self.variables.setdefault(input["serviceId"], {}).update(input["variables"])
        return True

    def _domains(self, projectId: str, environmentId: str, serviceId: str) -> Any:
        found = self.domains.get(serviceId)
        return {"serviceDomains": [{"domain": found}] if found else [], "customDomains": []}

    def _serviceDomainCreate(self, input: dict[str, str]) -> Any:
        self.domains[input["serviceId"]] = f"{input['serviceId']}.up.railway.example"
        return {"domain": self.domains[input["serviceId"]]}

    def _deployments(self, input: dict[str, str], first: int) -> Any:
        assert set(input) == {"projectId", "environmentId", "serviceId"}
        rows = [each for each in self.deployments if each["service"] == input["serviceId"]][:first]
        return {"edges": [{"node": self._shown(each, "SUCCESS")} for each in rows]}

    def _deployment(self, id: str) -> Any:
        found = next((each for each in self.deployments if each["id"] == id), None)
        if found is None:
            raise KeyError("Deployment")
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        return self._shown(found, state)

    def _shown(self, row: dict[str, Any], status: str) -> Any:
        return {"id": row["id"], "status": status, "meta": row["meta"], "canRollback": self.can_roll_back}

    def _deploymentRollback(self, id: str) -> Any:
        (found,) = [each for each in self.deployments if each["id"] == id]
        self._made(found["service"], {"reason": "rollback"})
        return True

    def _buildLogs(self, deploymentId: str, limit: int) -> Any:
        return [{"timestamp": "2026-11-30T10:00:00.000Z", "message": self.log, "severity": "info"}]

    def _deploymentLogs(self, deploymentId: str, limit: int) -> Any:
        return [{"timestamp": "2026-11-30T10:00:05.123456789Z", "message": "Listens.", "severity": "error"}]
