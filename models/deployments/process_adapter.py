"""The adapter `process`: builds a snapshot and runs it in a sandbox of this server, behind the host of its site."""

from collections.abc import Mapping, Sequence
from typing import Any

from models.core.db import db, extension
from models.deployments.build_planning import build_plan, found_commands, processes_offered
from models.deployments.deployed_process import (
    DeployedProcess,
    process_of,
    running_elsewhere,
    wanted_processes,
)
from models.deployments.deployment import Deployment
from models.deployments.deployment_adapter import (
    Capabilities,
    DeploymentFailed,
    DeploymentHealth,
    DeploymentOutcome,
    DeploymentPlan,
    DeploymentTask,
    Log,
    NotDeployable,
    ProviderLine,
    register_adapter,
)
from models.deployments.deployment_setting import DeploymentSetting
from models.deployments.process_requests import health_problem, is_listening
from models.deployments.site_addresses import site_hosts
from models.projects.project import Project
from models.projects.workspaces.workspace import Workspace
from models.runners import level_state
from models.runners.process_workplace import has_python

HEALTH_SECONDS = 2.0


class ProcessAdapter:
    """Programs in sandboxes of this server."""

    name = "process"
    capabilities = Capabilities("Program on this server", releases=True, hosted=True)

    def plan(self, project: Project, root: str, setting: DeploymentSetting) -> DeploymentPlan:
        """What is built and started. Raises NotDeployable, with the reason if this server runs no processes."""
        if problem := not_offered():
            raise NotDeployable(problem)
        start = setting.start_command or found_commands(project.account_id, root).start_command
        if start is None:
            raise NotDeployable(
                "No start command was found: package.json has no script start, and there is no Procfile. Set one in the settings."
            )
        most = extension("settings").stoa_processes_per_account
        if running_elsewhere(project.account_id, setting.workspace_id) >= most:
            raise NotDeployable(
                f"{most} programs of this account run already, which is the most. Take one offline first."
            )
        return build_plan(project, root, setting, start=start, health=setting.health_path or "/")

    def task(
        self, project: Project, workspace: Workspace, deployment: Deployment, plan: DeploymentPlan
    ) -> DeploymentTask:
        """It is built by `build_running`, and started by `process_host`."""
        raise NotImplementedError

    def deploy(self, task: DeploymentTask, log: Log) -> DeploymentOutcome:
        """As `task`."""
        raise NotImplementedError

    def release(self, task: DeploymentTask, log: Log) -> DeploymentOutcome:
        """As `task`."""
        raise NotImplementedError

    def logs(self, task: DeploymentTask) -> Sequence[ProviderLine]:
        """What it writes is read from its files (`process_log`)."""
        raise DeploymentFailed("What a program on this server writes is its output.")

    def health(self, deployment: Deployment) -> DeploymentHealth:
        """Whether it answers now: it is asked."""
        row = process_of(deployment)
        if row is None or deployment.state not in ("live", "restarting"):
            return DeploymentHealth(False, "It does not run.")
        if deployment.state == "restarting" or row.socket is None:
            again = f" for the {_ordinal(row.failures)} time in a row" if row.failures > 1 else ""
            return DeploymentHealth(
                False, f"It is started again{again}: {row.reason or 'the server restarted.'}"
            )
        path = deployment.detail["build"]["health"]
        problem = health_problem(row.socket, path, deployment.url or "", HEALTH_SECONDS)
        if problem:
            return DeploymentHealth(False, problem)
        return DeploymentHealth(True, f"GET {path} answers.")

    def destroy(self, provider_resource_id: str, token: str, metadata: Mapping[str, Any]) -> None:
        """It makes no resources: taking it offline ends it."""
        raise DeploymentFailed("Programs on this server have no resources. Take the site offline.")


def not_offered() -> str:
    """Why this server runs no processes of deployments, in a sentence; empty if it does."""
    if not processes_offered():
        return "This server runs no programs of deployments: its operator set STOA_PROCESSES to 0."
    if site_hosts() is None:
        return "This server serves no sites yet: the operator sets STOA_SITES_URL, such as https://{name}.sites.example.org."
    state = level_state("process")
    if not state.available:
        return f"Programs cannot run here. {state.sentence}"
    if not has_python():
        return "Programs cannot be reached here: the system has no python3, which leads requests into the sandbox."
    return ""


def program_summary() -> str:
    """For operators: how many programs should run and answer, or why none can."""
    if problem := not_offered():
        return problem
    wanted = wanted_processes()
    rows = [db.session.get(DeployedProcess, id) for id in wanted]
    answer = sum(1 for each in rows if each and each.socket and is_listening(each.socket))
    return f"{answer} of {len(wanted)} that should run do." if wanted else "None is deployed."


def state_now(deployment: Deployment) -> str:
    """The state of a deployment at this moment: one whose process is gone, and of which nobody has told yet, is `restarting`."""
    if deployment.adapter != "process" or deployment.state != "live":
        return deployment.state
    row = process_of(deployment)
    return "live" if row is not None and row.socket is not None and is_listening(row.socket) else "restarting"


def _ordinal(number: int) -> str:
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number % 10 if number // 10 % 10 != 1 else 0, "th")
    return f"{number}{ending}"


register_adapter(ProcessAdapter())
