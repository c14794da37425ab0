"""What a place to deploy to must be able to do, and the places that this server knows."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from sqlalchemy import select

from models.core.db import db
from models.core.errors import Invalid
from models.deployments.deployment import Deployment
from models.deployments.deployment_setting import DeploymentSetting
from models.projects.environment import EnvironmentVariable, opened_variables
from models.projects.project import Project
from models.projects.workspaces.workspace import Workspace

Log = Callable[[str, str], None]
"""Takes a step (`install`, `build`, `deploy`) and a line, or several of them."""


class NotDeployable(Invalid):
    """The files or the settings cannot be deployed there; the message says what to change."""

    code = "not_deployable"


class DeploymentFailed(Exception):
    """The place did not take it, or it is not healthy there. The message is for the user, and has no secret. `resources` are there all the
    same, as those of `DeploymentOutcome`."""

    def __init__(self, message: str, resources: Sequence[tuple[str, str, str]] = ()) -> None:
        super().__init__(message)
        self.resources = resources


class ProviderBusy(DeploymentFailed):
    """The place does not answer, or allows no more calls now: the same is tried again in so many seconds, and fails only after several
    times."""

    def __init__(self, message: str, seconds: float) -> None:
        super().__init__(message)
        self.seconds = seconds


class Capabilities(NamedTuple):
    """`title` is what pages call it, `provider` whose credential it needs. `instant`: it is done within the transaction that asks.
    `releases`: an earlier deployment can be released again. `waits`: somebody else says how it ended. `logs`: the place tells what it did
    and does with a deployment. `hosted`: it runs on this server, so a release takes a while."""

    title: str
    provider: str | None = None
    instant: bool = False
    releases: bool = False
    waits: bool = False
    logs: bool = False
    hosted: bool = False


class DeploymentPlan(NamedTuple):
    """What a deployment will do: the tree of the folder that is served, its number of files and bytes, the names of variables that it
    reads, and the resources that it makes (type and name). `builds`: the tree is built first. `facts` are kept with the deployment."""

    tree_hash: str
    folder: str
    files: int
    bytes: int
    variables: Sequence[str] = ()
    resources: Sequence[tuple[str, str]] = ()
    builds: bool = False
    facts: Mapping[str, Any] = MappingProxyType({})


class DeploymentTask(NamedTuple):
    """All that a deployment outside of a transaction needs, as plain values. `key` stays the same when it is repeated, `name` is what the
    provider should call it. `secret`, `metadata` and `variables` (values by name) are of the credential, the webhook and the project: never
    log them. `noted` is what was noted of it at the provider (`note`), `former` that of the deployment to release again. `polls` counts how
    often it was looked at."""

    key: str
    account_id: str
    name: str
    plan: DeploymentPlan
    facts: Mapping[str, Any]
    secret: bytes
    metadata: Mapping[str, Any]
    variables: Mapping[str, str] = MappingProxyType({})
    noted: Mapping[str, str] = MappingProxyType({})
    former: Mapping[str, str] = MappingProxyType({})
    polls: int = 0


class DeploymentOutcome(NamedTuple):
    """How a deployment went at the provider: whether it is live and healthy, or goes on there, and then in how many seconds it is looked
    at again (None: somebody reports it); its address, what the provider calls it, and resources that it made there (type, the provider's id,
    name)."""

    done: bool = True
    url: str | None = None
    external_id: str | None = None
    resources: Sequence[tuple[str, str, str]] = ()
    again: float | None = None


class ProviderLine(NamedTuple):
    """A line of what a place tells of a deployment."""

    at: datetime | None
    stream: str
    text: str


class DeploymentHealth(NamedTuple):
    """Whether a live deployment answers, and that as a sentence. `ok` None: nobody checks it."""

    ok: bool | None
    sentence: str


class DeploymentAdapter(Protocol):
    """A place to deploy to. What reaches a network is called outside of transactions, and never holds a lock."""

    name: str
    capabilities: Capabilities

    def plan(self, project: Project, root: str, setting: DeploymentSetting) -> DeploymentPlan:
        """What a deployment of the tree `root` will do. Raises NotDeployable."""

    def task(
        self, project: Project, workspace: Workspace, deployment: Deployment, plan: DeploymentPlan
    ) -> DeploymentTask:
        """What `deploy` needs. Raises DeploymentFailed."""

    def deploy(self, task: DeploymentTask, log: Log) -> DeploymentOutcome:
        """Do it, or continue it, and check the health of the result. Idempotent by the key of the task. Raises DeploymentFailed,
        ProviderBusy."""

    def release(self, task: DeploymentTask, log: Log) -> DeploymentOutcome:
        """Let the place serve the `former` deployment again, and check its health; not for those that are `instant`. Idempotent as `deploy`.
        Raises DeploymentFailed."""

    def logs(self, task: DeploymentTask) -> Sequence[ProviderLine]:
        """What the place tells of a deployment, in order. Raises DeploymentFailed."""

    def health(self, deployment: Deployment) -> DeploymentHealth:
        """Whether a live deployment answers."""

    def destroy(self, provider_resource_id: str, token: str, metadata: Mapping[str, Any]) -> None:
        """Remove a resource at the provider. Raises DeploymentFailed."""


_adapters: dict[str, DeploymentAdapter] = {}


def register_adapter(adapter: DeploymentAdapter) -> None:
    """Offer a place to deploy to."""
    _adapters[adapter.name] = adapter


def adapters() -> Mapping[str, DeploymentAdapter]:
    """The places to deploy to, by name."""
    return _adapters


def adapter_of(name: str) -> DeploymentAdapter:
    """The place with this name. Raises NotDeployable for one that this server no longer knows."""
    found = _adapters.get(name)
    if found is None:
        raise NotDeployable(f"This server does not deploy to '{name}'. Choose another place in the settings.")
    return found


def variable_names(project_id: str, workspace_id: str) -> list[str]:
    """The names of the variables that a deployment of the workspace may read, in order; no values."""
    query = select(EnvironmentVariable.key).where(
        EnvironmentVariable.project_id == project_id,
        (EnvironmentVariable.workspace_id.is_(None)) | (EnvironmentVariable.workspace_id == workspace_id),
    )
    return sorted(set(db.session.scalars(query)))


def deployed_variables(project: Project, workspace: Workspace) -> dict[str, str]:
    """The values of the variables that a deployment of the workspace is given, by name. Never log them. Raises DeploymentFailed for one that
    cannot be read."""
    found = {each.row.key: each.value for each in opened_variables(project, workspace)}
    if lost := next((key for key, value in found.items() if value is None), None):
        raise DeploymentFailed(
            f"The value of the variable {lost} cannot be read: the secret key of this server changed. Set it again."
        )
    return {key: value for key, value in found.items() if value is not None}
