"""The adapter `cloudflare`: a Worker with static assets, of which Cloudflare takes only the files that it has not got.

Each deployment is a version of the Worker, tagged with the deployment's id, so one that is continued finds its version. An earlier version
is served again by naming it: nothing is uploaded.
"""

import base64
import hashlib
import mimetypes
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from models.core import jobs
from models.core.db import extension
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
from models.deployments.deployment_listing import noted_before
from models.deployments.deployment_setting import DeploymentSetting
from models.deployments.provider_calls import ProviderMissing, call, first_message, moment_of, public_answer
from models.deployments.provider_credential import credential_of, token_of
from models.deployments.provider_deploying import note
from models.deployments.site_addresses import first_name
from models.deployments.static_adapter import folder_plan, missing_files
from models.projects import Project, Workspace
from models.projects.snapshots.blob_packs import MAX_BLOB, read_blobs
from models.projects.snapshots.manifest_store import tree_entries

COMPATIBILITY = "2026-01-01"
MAX_FILES = 20_000
TRIES, PAUSE = 6, 3.0
"""How often a new address is asked, which takes a while to answer, and seconds between."""
WHO = "Cloudflare"
GONE = "Cloudflare no longer has this version. Deploy its snapshot anew."


class Asset(NamedTuple):
    """A file to upload: its path, what Cloudflare calls its bytes, its size, and their hash here."""

    path: str
    name: str
    size: int
    hash: str


class CloudflareAdapter:
    """Workers of the account's own at Cloudflare."""

    name = "cloudflare"
    capabilities = Capabilities("Cloudflare Workers", provider="cloudflare", releases=True, logs=True)

    def plan(self, project: Project, root: str, setting: DeploymentSetting) -> DeploymentPlan:
        """The folder that is uploaded. Raises NotDeployable, also without a credential."""
        credential = credential_of(project.account_id, "cloudflare")
        if credential is None or token_of(credential) is None:
            raise NotDeployable("Add a token of Cloudflare under Connections.")
        if not (credential.about or {}).get("account_id"):
            raise NotDeployable("Name the account of Cloudflare with the token, under Connections.")
        plan = folder_plan(project.account_id, root, setting)
        if plan.files > MAX_FILES:
            raise NotDeployable(f"The folder has {plan.files:,} files; Cloudflare takes {MAX_FILES:,}.")
        entries = tree_entries(project.account_id, plan.tree_hash)
        large = next((each.path for each in entries if (each.size or 0) > MAX_BLOB), None)
        if large is not None:
            raise NotDeployable(
                f"{large[:200]} is larger than {MAX_BLOB >> 20} MB, the most that Cloudflare takes."
            )
        if missing := missing_files(project.account_id, plan.tree_hash):
            raise NotDeployable(f"The bytes of {len(missing)} files are not stored. Push the snapshot again.")
        return plan._replace(resources=[("compute:edge", "app")])

    def task(
        self, project: Project, workspace: Workspace, deployment: Deployment, plan: DeploymentPlan
    ) -> DeploymentTask:
        """The token and the account. Raises DeploymentFailed if they are gone."""
        credential = credential_of(project.account_id, "cloudflare")
        token = token_of(credential) if credential else None
        if credential is None or token is None:
            raise DeploymentFailed("The token of Cloudflare was removed.")
        name = noted_before(workspace.id, self.name).get("resource") or first_name(project, workspace)
        about = dict(credential.about or {})
        return DeploymentTask(deployment.id, project.account_id, name, plan, {}, token.encode(), about)

    def deploy(self, task: DeploymentTask, log: Log) -> DeploymentOutcome:
        """Upload what is new as a version of the Worker, serve it, and wait until its address answers; else serve the version before again.
        Raises DeploymentFailed, ProviderBusy."""
        worker = _Worker(task, task.noted.get("resource") or task.name)
        version, served = task.noted.get("version"), worker.served()
        before = task.noted.get("before", served or "")
        if version is None:
            note(task.key, resource=worker.name, before=before)
            version = worker.tagged(task.key) if served else None
        if version is None:
            assets = worker.upload(log)
            version = worker.first_version(assets) if served is None else worker.new_version(assets)
        note(task.key, version=version)
        return worker.serve(version, before if before != version else "", log)

    def release(self, task: DeploymentTask, log: Log) -> DeploymentOutcome:
        """Serve the version of the former deployment. Raises DeploymentFailed, ProviderBusy."""
        worker, version = _Worker(task, task.former.get("resource", "")), task.former.get("version", "")
        if not worker.name or not version:
            raise DeploymentFailed(GONE)
        before = task.noted.get("before") or worker.served()
        if before is None:
            raise DeploymentFailed(GONE)
        note(task.key, resource=worker.name, version=version, before=before)
        return worker.serve(version, before if before != version else "", log)

    def logs(self, task: DeploymentTask) -> Sequence[ProviderLine]:
        """When Cloudflare served the version of the deployment, and to how many. A Worker with assets alone runs nothing that could write more.
        Raises DeploymentFailed."""
        worker = _Worker(task, task.noted.get("resource", ""))
        return worker.history(task.noted.get("version", ""))

    def health(self, deployment: Deployment) -> DeploymentHealth:
        """It answered when it was deployed; nobody asks it now."""
        return DeploymentHealth(None, "Cloudflare serves it. It answered when it was deployed.")

    def destroy(self, provider_resource_id: str, token: str, metadata: Mapping[str, Any]) -> None:
        """Delete the Worker; one that is gone already is fine. Raises DeploymentFailed."""
        account = metadata.get("account_id")
        path = f"/accounts/{account}/workers/scripts/{provider_resource_id}?force=true"
        try:
            _call(token, "DELETE", path)
        except ProviderMissing:
            return


class _Worker:
    """One Worker of the account, for one deployment."""

    def __init__(self, task: DeploymentTask, name: str) -> None:
        self.name, self._task, self._token = name, task, task.secret.decode()
        self._account = f"/accounts/{task.metadata.get('account_id')}/workers"
        self._path = f"{self._account}/scripts/{name}"
        self._resources = [("compute:edge", name, name)]

    def served(self) -> str | None:
        """The version that serves most requests now; None if there is no such Worker."""
        try:
            listed = _call(self._token, "GET", f"{self._path}/deployments").get("deployments")
        except ProviderMissing:
            return None
        versions = _rows(_rows(listed)[0].get("versions")) if _rows(listed) else []
        newest = max(versions, key=lambda each: float(each.get("percentage") or 0), default=None)
        return str(newest["version_id"]) if newest and newest.get("version_id") else None

    def tagged(self, tag: str) -> str | None:
        """The version with this tag, among the newest."""
        for each in _rows(_call(self._token, "GET", f"{self._path}/versions").get("items")):
            if (each.get("annotations") or {}).get("workers/tag") == tag and each.get("id"):
                return str(each["id"])
        return None

    def upload(self, log: Log) -> str:
        """Upload the files that Cloudflare lacks; the text that says that all are there."""
        with jobs.transaction():
            assets = assets_of(self._task.account_id, self._task.plan.tree_hash)
        manifest = {f"/{each.path}": {"hash": each.name, "size": each.size} for each in assets}
        opened = _call(
            self._token, "POST", f"{self._path}/assets-upload-session", json={"manifest": manifest}
        )
        buckets = [each for each in opened.get("buckets") or [] if isinstance(each, list)]
        log("deploy", f"Cloudflare lacks {sum(map(len, buckets)):,} of {len(assets):,} files.")
        by_name = {each.name: each for each in assets}
        jwt = done = str(opened.get("jwt") or "")
        for bucket in buckets:
            files = self._parts([by_name[name] for name in bucket if name in by_name])
            said = _call(jwt, "POST", f"{self._account}/assets/upload?base64=true", files=files)
            done = str(said.get("jwt") or done)
        if not done:
            raise DeploymentFailed("Cloudflare does not answer as expected: it did not confirm the files.")
        return done

    def first_version(self, assets: str) -> str:
        """Make the Worker, which serves these assets at once."""
        _call(self._token, "PUT", self._path, files=self._metadata(assets))
        found = self.served()
        if found is None:
            raise DeploymentFailed("Cloudflare took the files, but names no version of them.")
        return found

    def new_version(self, assets: str) -> str:
        """Make a version, which nobody is served yet."""
        made = _call(self._token, "POST", f"{self._path}/versions", files=self._metadata(assets))
        if not made.get("id"):
            raise DeploymentFailed("Cloudflare took the files, but names no version of them.")
        return str(made["id"])

    def serve(self, version: str, before: str, log: Log) -> DeploymentOutcome:
        """Serve a version to everybody, and check the address; if that is not healthy, serve `before` again, if there
        was one. Raises DeploymentFailed."""
        if self.served() != version:
            self._switch(version)
        _call(self._token, "POST", f"{self._path}/subdomain", json={"enabled": True})
        domain = _call(self._token, "GET", f"{self._account}/subdomain").get("subdomain")
        if not domain:
            raise DeploymentFailed(
                "The account has no workers.dev subdomain. Choose one at Cloudflare first.", self._resources
            )
        address = f"https://{self.name}.{domain}.workers.dev"
        log("deploy", f"The Worker {self.name} serves the version {version}. Its address is asked.")
        problem = _problem(address)
        if problem is not None:
            told = f"Cloudflare took the files, but the address is not healthy: {problem}."
            if before:
                self._switch(before)
                told += " It serves the version before again."
            raise DeploymentFailed(told, self._resources)
        return DeploymentOutcome(url=address, external_id=f"{self.name}@{version}", resources=self._resources)

    def history(self, version: str) -> list[ProviderLine]:
        """When the Worker served this version, the oldest first."""
        try:
            listed = _call(self._token, "GET", f"{self._path}/deployments").get("deployments")
        except ProviderMissing:
            raise DeploymentFailed("Cloudflare no longer has this Worker.") from None
        lines = []
        for row in reversed(_rows(listed)):
            share = [each for each in _rows(row.get("versions")) if each.get("version_id") == version]
            if share:
                text = f"The version {version} serves {share[0].get('percentage', 100)} % of requests."
                lines.append(ProviderLine(moment_of(row.get("created_on")), "stdout", text))
        return lines

    def _switch(self, version: str) -> None:
        wanted = {"strategy": "percentage", "versions": [{"version_id": version, "percentage": 100}]}
        try:
            _call(self._token, "POST", f"{self._path}/deployments", json=wanted)
        except ProviderMissing:
            raise DeploymentFailed(GONE) from None

    def _metadata(self, assets: str) -> dict[str, Any]:
        about = {
            "compatibility_date": COMPATIBILITY,
            "assets": {"jwt": assets, "config": {"not_found_handling": "404-page"}},
            "annotations": {"workers/tag": self._task.key},
        }
        return {"metadata": (None, orjson.dumps(about), "application/json")}

    def _parts(self, wanted: Sequence[Asset]) -> dict[str, Any]:
        with jobs.transaction():
            read = dict(read_blobs(self._task.account_id, {each.hash for each in wanted}))
        return {
            each.name: (each.name, base64.b64encode(read.get(each.hash, b"")), _type(each.path))
            for each in wanted
        }


def assets_of(account_id: str, tree: str) -> list[Asset]:
    """The files of a tree; those of another type with the same bytes have another name, as Cloudflare keeps the type with them."""
    found = []
    for each in tree_entries(account_id, tree):
        if each.kind == "file" and each.hash:
            ending = each.path.rpartition("/")[2].rpartition(".")[2]
            name = hashlib.sha256(f"{each.hash}.{ending}".encode()).hexdigest()[:32]
            found.append(Asset(each.path, name, each.size or 0, each.hash))
    return found


def site_status(address: str) -> int | None:
    """What a public address answers; None if it cannot be reached."""
    answer = public_answer(address)
    return answer.status_code if answer is not None else None


def _problem(address: str) -> str | None:
    """Why an address is not healthy after several attempts; None if it is."""
    status = None
    for number in range(TRIES):
        if number:
            time.sleep(PAUSE)
        status = site_status(address)
        if status is not None and status < 400:
            return None
    return f"it answers {status}" if status else "it cannot be reached"


def _type(path: str) -> str:
    return mimetypes.guess_type(path)[0] or "application/octet-stream"


def _rows(value: Any) -> list[Mapping[str, Any]]:
    """The objects of a list of an answer."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _call(token: str, method: str, path: str, **body: Any) -> Mapping[str, Any]:
    """The `result` of a call. Raises DeploymentFailed, without what was sent, ProviderBusy, ProviderMissing."""
    answer = call(WHO, method, f"{extension('settings').cloudflare_base_url}{path}", token, **body)
    if not answer.said.get("success"):
        raise DeploymentFailed(f"Cloudflare refused{first_message(answer.said)}.")
    result = answer.said.get("result")
    return result if isinstance(result, dict) else {}


register_adapter(CloudflareAdapter())
