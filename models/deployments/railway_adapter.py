"""The adapter `railway`: a service at Railway, which builds the files of a snapshot and runs them.

Each deployment is uploaded with its id as the message, so one that is continued finds what it began. The job looks at the state now and then;
only an address that answers makes a deployment live.
"""

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

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
    deployed_variables,
    register_adapter,
    variable_names,
)
from models.deployments.deployment_listing import noted_before
from models.deployments.deployment_setting import DeploymentSetting, setting_of
from models.deployments.provider_calls import ProviderMissing, public_answer
from models.deployments.provider_credential import credential_of, token_of
from models.deployments.provider_deploying import note
from models.deployments.railway_api import RailwayApi, RailwayPlace
from models.deployments.site_addresses import first_name
from models.deployments.site_serving import subtree
from models.deployments.static_adapter import missing_files
from models.deployments.tree_archive import write_archive
from models.projects import Project, Workspace
from models.projects.snapshots.manifest_store import tree_entries

SERVICE = "app"
"""What the service is called in its project, of which each workspace has one."""
MAX_FILES, MAX_BYTES = 20_000, 500 << 20
IN_MEMORY = 8 << 20
"""Bytes of an archive that are kept in memory; larger ones are a file."""
LINES = 100
"""Lines of Railway's log that are taken over."""
FIRST_PAUSE, LONGEST_PAUSE, MAX_POLLS = 5.0, 20.0, 150
"""Seconds between two looks at the state, and how often it is looked at: about 45 minutes."""
TRIES = 10
"""How often the address may fail to answer once Railway says that it runs."""
UNDER_WAY = frozenset({"QUEUED", "WAITING", "INITIALIZING", "BUILDING", "DEPLOYING"})
RUNNING = frozenset({"SUCCESS", "SLEEPING"})
ENDED = {
    "FAILED": "Railway could not build or start it.",
    "CRASHED": "It crashed after Railway started it.",
    "REMOVED": "Railway removed it: a newer deployment replaced it, or somebody took it down there.",
    "REMOVING": "Railway removes it: a newer deployment replaced it, or somebody took it down there.",
    "SKIPPED": "Railway skipped it.",
    "NEEDS_APPROVAL": "Railway waits for somebody to approve it there.",
}


class RailwayAdapter:
    """Services of the account's own at Railway."""

    name = "railway"
    capabilities = Capabilities("Railway", provider="railway", releases=True, logs=True)

    def plan(self, project: Project, root: str, setting: DeploymentSetting) -> DeploymentPlan:
        """The whole snapshot, or the folder of the settings, which Railway builds. Raises NotDeployable, also without a credential."""
        credential = credential_of(project.account_id, self.name)
        if credential is None or token_of(credential) is None:
            raise NotDeployable("Add a token of Railway under Connections.")
        folder = setting.folder or "."
        tree = subtree(project.account_id, root, folder)
        if tree is None:
            raise NotDeployable(
                f"The snapshot has no folder {folder}. Choose another folder in the settings."
            )
        files = [each for each in tree_entries(project.account_id, tree) if each.kind == "file"]
        size = sum(each.size for each in files)
        if not files:
            raise NotDeployable("There are no files to deploy.")
        if len(files) > MAX_FILES or size > MAX_BYTES:
            raise NotDeployable(
                f"There are {len(files):,} files of {size >> 20:,} MB. At most {MAX_FILES:,} of {MAX_BYTES >> 20} MB are sent to Railway."
            )
        if missing := missing_files(project.account_id, tree):
            raise NotDeployable(f"The bytes of {len(missing)} files are not stored. Push the snapshot again.")
        names = variable_names(project.id, setting.workspace_id)
        return DeploymentPlan(tree, folder, len(files), size, names, [("compute", "app")])

    def task(
        self, project: Project, workspace: Workspace, deployment: Deployment, plan: DeploymentPlan
    ) -> DeploymentTask:
        """The token, the commands and the values of variables. Raises DeploymentFailed if the token is gone or a value cannot be read."""
        credential = credential_of(project.account_id, self.name)
        token = token_of(credential) if credential else None
        if credential is None or token is None:
            raise DeploymentFailed("The token of Railway was removed.")
        setting = setting_of(project.id, workspace.id)
        name = first_name(project, workspace)
        facts = {
            "build": setting.build_command,
            "start": setting.start_command,
            "place": noted_before(workspace.id, self.name),
        }
        about = dict(credential.about or {})
        return DeploymentTask(
            deployment.id,
            project.account_id,
            name,
            plan,
            facts,
            token.encode(),
            about,
            variables=deployed_variables(project, workspace),
        )

    def deploy(self, task: DeploymentTask, log: Log) -> DeploymentOutcome:
        """Upload the files once, then look at how Railway builds and runs them. Raises DeploymentFailed, ProviderBusy."""
        railway, place = RailwayApi(task.secret.decode()), _noted_place(task.noted)
        id = task.noted.get("deployment")
        if place is None or id is None:
            place = place or _find_place(railway, task, log)
            try:
                id = _find_upload(railway, place, task.key) or _upload(railway, place, task, log)
            except DeploymentFailed as failed:
                failed.resources = [("compute", place.service, task.name)]
                raise
            note(task.key, deployment=id)
        return _look(railway, place, id, task, log)

    def release(self, task: DeploymentTask, log: Log) -> DeploymentOutcome:
        """Roll back to the former deployment, which Railway kept. Raises DeploymentFailed, ProviderBusy."""
        railway, place = RailwayApi(task.secret.decode()), _noted_place(task.former)
        if place is None:
            raise DeploymentFailed(_LOST)
        id = task.noted.get("deployment")
        if id is None:
            id = _roll_back(railway, place, task)
            if id is None:
                return DeploymentOutcome(done=False, again=FIRST_PAUSE)
            note(task.key, deployment=id)
        return _look(railway, place, id, task, log)

    def logs(self, task: DeploymentTask) -> Sequence[ProviderLine]:
        """The last lines that the deployment wrote while it ran. Raises DeploymentFailed."""
        railway, id = RailwayApi(task.secret.decode()), task.noted.get("deployment")
        lines = railway.logs("deploymentLogs", id, LINES) if id else []
        return [each._replace(text=_redacted(each.text, task)) for each in lines]

    def health(self, deployment: Deployment) -> DeploymentHealth:
        """It answered when it was deployed; nobody asks it now."""
        return DeploymentHealth(None, "Railway runs it. It answered when it was deployed.")

    def destroy(self, provider_resource_id: str, token: str, metadata: Mapping[str, Any]) -> None:
        """Delete the service; its project at Railway stays. Raises DeploymentFailed."""
        RailwayApi(token).delete_service(provider_resource_id)


_LOST = "Railway no longer keeps this deployment. Deploy its snapshot anew."


def _noted_place(noted: Mapping[str, str]) -> RailwayPlace | None:
    ids = [noted.get(name) for name in ("project", "environment", "resource")]
    return RailwayPlace(*(str(each) for each in ids)) if all(ids) else None


def _find_place(railway: RailwayApi, task: DeploymentTask, log: Log) -> RailwayPlace:
    """The project and service of the workspace at Railway: those of the deployment before, else those with their names, else new ones."""
    workspace = task.metadata.get("account_id") or task.metadata.get("workspace_id")
    known = _noted_place(task.facts["place"])
    project = None
    if known is not None:
        try:
            environment, services = railway.parts_of(known.project)
            project = known.project
        except ProviderMissing:
            pass
    if project is None:
        project = railway.project_named(task.name, workspace) or railway.make_project(task.name, workspace)
        environment, services = railway.parts_of(project)
    service = services.get(SERVICE)
    if service is None:
        service = railway.make_service(project, environment, SERVICE)
        log("deploy", f"Made the service {SERVICE} of the project {task.name} at Railway.")
    note(task.key, project=project, environment=environment, resource=service)
    return RailwayPlace(project, environment, service)


def _find_upload(railway: RailwayApi, place: RailwayPlace, key: str) -> str | None:
    """The deployment that was uploaded with this key."""
    return next((each.id for each in railway.deployments(place) if key in each.meta.values()), None)


def _upload(railway: RailwayApi, place: RailwayPlace, task: DeploymentTask, log: Log) -> str:
    railway.set_commands(place, task.facts["build"], task.facts["start"])
    if task.variables:
        railway.set_variables(place, task.variables)
    with tempfile.SpooledTemporaryFile(max_size=IN_MEMORY) as archive:
        count = write_archive(task.account_id, task.plan.tree_hash, archive)
        size = archive.tell()
        archive.seek(0)
        log("deploy", f"Uploads {count:,} files to Railway, {size:,} bytes compressed.")
        return railway.upload(place, archive, task.key)


def _roll_back(railway: RailwayApi, place: RailwayPlace, task: DeploymentTask) -> str | None:
    """Roll back once; the deployment that Railway made for it, None if it does not show it yet."""
    newest = next((each.id for each in railway.deployments(place)), "")
    before = task.noted.get("before")
    if before is None:
        former = railway.deployment(task.former.get("deployment", ""))
        if former is None or not former.can_roll_back:
            raise DeploymentFailed(_LOST)
        note(
            task.key,
            project=place.project,
            environment=place.environment,
            resource=place.service,
            before=newest,
        )
        railway.roll_back(former.id)
        newest, before = next((each.id for each in railway.deployments(place)), ""), newest
    if newest and newest != before:
        return newest
    if task.polls >= TRIES:
        raise DeploymentFailed("Railway did not begin to roll back.")
    return None


def _look(
    railway: RailwayApi, place: RailwayPlace, id: str, task: DeploymentTask, log: Log
) -> DeploymentOutcome:
    """What Railway says of the deployment, and whether it answers."""
    resources = [("compute", place.service, task.name)]
    found = railway.deployment(id)
    status = found.status if found else "REMOVED"
    if status in ENDED:
        _take_lines(railway, id, task, log)
        raise DeploymentFailed(ENDED[status], resources)
    later = DeploymentOutcome(
        done=False,
        external_id=id,
        resources=resources,
        again=min(FIRST_PAUSE + task.polls, LONGEST_PAUSE),
    )
    if status in RUNNING:
        address = f"https://{railway.domain_of(place)}"
        problem = _problem(address)
        if problem is None:
            _take_lines(railway, id, task, log)
            return DeploymentOutcome(url=address, external_id=id, resources=resources)
        asked = int(task.noted.get("asked", "0")) + 1
        if asked >= TRIES:
            _take_lines(railway, id, task, log)
            raise DeploymentFailed(f"Railway says that it runs, but {problem}.", resources)
        note(task.key, asked=str(asked))
    elif task.polls >= MAX_POLLS:
        unknown = f"says {status or 'nothing'} of it, which this server does not know"
        what = "is still at work on it" if status in UNDER_WAY else unknown
        raise DeploymentFailed(f"Railway {what}, after {task.polls} looks. Look there.", resources)
    return later


def _problem(address: str) -> str | None:
    """Why the address is not healthy; None if the program itself answers below 500."""
    answer = public_answer(address)
    if answer is None:
        return "its address cannot be reached"
    if answer.headers.get("x-railway-fallback", "").lower() == "true":
        return "nothing answers at its address"
    return f"its address answers {answer.status_code}" if answer.status_code >= 500 else None


def _take_lines(railway: RailwayApi, id: str, task: DeploymentTask, log: Log) -> None:
    """Take the last lines of Railway's own logs over, without secrets; they only help, so a fault leaves them out."""
    for kind, step in (("buildLogs", "build"), ("deploymentLogs", "deploy")):
        try:
            lines = railway.logs(kind, id, LINES)
        except DeploymentFailed:
            continue
        if lines:
            log(step, "\n".join(_redacted(each.text, task) for each in lines))


def _redacted(text: str, task: DeploymentTask) -> str:
    """A line without the values of variables and the token."""
    secrets: Iterable[str] = {task.secret.decode(), *task.variables.values()}
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= 4:
            text = text.replace(secret, "****")
    return text


register_adapter(RailwayAdapter())
