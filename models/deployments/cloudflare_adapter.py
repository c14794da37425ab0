"""The adapter `cloudflare`: a Worker with static assets, of which Cloudflare takes only the files that it has not got."""

import base64
import hashlib
import mimetypes
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import orjson
import requests

from models.core import jobs, outgoing
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
    register_adapter,
)
from models.deployments.deployment_setting import DeploymentSetting
from models.deployments.provider_credential import credential_of, token_of
from models.deployments.site_addresses import first_name
from models.deployments.static_adapter import folder_plan, missing_files
from models.projects import Project, Workspace
from models.projects.snapshots.blob_packs import MAX_BLOB, BlobDamaged, read_blobs
from models.projects.snapshots.manifest_store import tree_entries

COMPATIBILITY = "2026-01-01"
MAX_FILES = 20_000
SECONDS, TRIES, PAUSE = 60.0, 6, 3.0
"""Of one request; how often a new address is asked, which takes a while to answer, and seconds between."""


class Asset(NamedTuple):
    """A file to upload: its path, what Cloudflare calls its bytes, its size, and their hash here."""

    path: str
    name: str
    size: int
    hash: str


class CloudflareAdapter:
    """Workers of the account's own at Cloudflare."""

    name = "cloudflare"
    capabilities = Capabilities("Cloudflare Workers", provider="cloudflare")

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
        name = first_name(project, workspace)
        return DeploymentTask(
            deployment.id, project.account_id, name, plan, {}, token.encode(), dict(credential.about or {})
        )

    def deploy(self, task: DeploymentTask, log: Log) -> DeploymentOutcome:
        """Upload what is new, switch the Worker to it, and wait until its address answers. Raises DeploymentFailed."""
        with jobs.transaction():
            assets = assets_of(task.account_id, task.plan.tree_hash)
        account = f"/accounts/{task.metadata['account_id']}/workers"
        worker = f"{account}/scripts/{task.name}"
        token = task.secret.decode()
        manifest = {f"/{each.path}": {"hash": each.name, "size": each.size} for each in assets}
        opened = _call(token, "POST", f"{worker}/assets-upload-session", json={"manifest": manifest})
        buckets = opened.get("buckets") or []
        log("deploy", f"Cloudflare lacks {sum(map(len, buckets)):,} of {len(assets):,} files.")
        done = _upload(
            task, account, str(opened.get("jwt", "")), buckets, {each.name: each for each in assets}
        )
        about = {
            "compatibility_date": COMPATIBILITY,
            "assets": {"jwt": done, "config": {"not_found_handling": "404-page"}},
        }
        _call(token, "PUT", worker, files={"metadata": (None, orjson.dumps(about), "application/json")})
        _call(token, "POST", f"{worker}/subdomain", json={"enabled": True})
        domain = _call(token, "GET", f"{account}/subdomain").get("subdomain")
        address = f"https://{task.name}.{domain}.workers.dev"
        log("deploy", f"The Worker {task.name} has the files. Its address is asked.")
        _check(address)
        resource = ("compute:edge", task.name, task.name)
        return DeploymentOutcome(url=address, external_id=task.name, resources=[resource])

    def health(self, deployment: Deployment) -> DeploymentHealth:
        """It answered when it was deployed; nobody asks it now."""
        return DeploymentHealth(None, "Cloudflare serves it. It answered when it was deployed.")

    def destroy(self, provider_resource_id: str, token: str, metadata: Mapping[str, Any]) -> None:
        """Delete the Worker. Raises DeploymentFailed."""
        account = metadata.get("account_id")
        _call(token, "DELETE", f"/accounts/{account}/workers/scripts/{provider_resource_id}?force=true")


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
    session = outgoing.guarded(requests.Session(), extension("settings"))
    try:
        return session.get(address, headers={"User-Agent": "Stoa"}).status_code
    except requests.RequestException:
        return None
    finally:
        session.close()


def _check(address: str) -> None:
    status = None
    for number in range(TRIES):
        if number:
            time.sleep(PAUSE)
        status = site_status(address)
        if status is not None and status < 400:
            return
    told = f"it answers {status}" if status else "it cannot be reached"
    raise DeploymentFailed(f"Cloudflare took the files, but the address is not healthy: {told}.")


def _upload(
    task: DeploymentTask,
    account: str,
    jwt: str,
    buckets: Sequence[Sequence[str]],
    by_name: Mapping[str, Asset],
) -> str:
    """Upload the files that Cloudflare lacks; the text that says they are there. Raises DeploymentFailed."""
    done = jwt
    for bucket in buckets:
        wanted = [by_name[name] for name in bucket if name in by_name]
        with jobs.transaction():
            try:
                read = dict(read_blobs(task.account_id, {each.hash for each in wanted}))
            except BlobDamaged:
                raise DeploymentFailed(
                    "A file cannot be read: the storage lost or changed its bytes."
                ) from None
        files = {
            each.name: (each.name, base64.b64encode(read.get(each.hash, b"")), _type(each.path))
            for each in wanted
        }
        said = _call(jwt, "POST", f"{account}/assets/upload?base64=true", files=files)
        done = str(said.get("jwt") or done)
    return done


def _type(path: str) -> str:
    return mimetypes.guess_type(path)[0] or "application/octet-stream"


def _call(token: str, method: str, path: str, **body: Any) -> Mapping[str, Any]:
    """The `result` of a call. Raises DeploymentFailed, without what was sent."""
    base = extension("settings").cloudflare_base_url
    try:
        answer = requests.request(
            method,
            f"{base}{path}",
            headers={"Authorization": f"Bearer {token}"},
            timeout=SECONDS,
            allow_redirects=False,
            **body,
        )
        said = answer.json()
    except (requests.RequestException, ValueError):
        raise DeploymentFailed("Cloudflare cannot be reached, or does not answer as expected.") from None
    if answer.status_code >= 300 or not isinstance(said, dict) or not said.get("success"):
        raise DeploymentFailed(f"Cloudflare answered {answer.status_code}{_reason(said)}.")
    result = said.get("result")
    return result if isinstance(result, dict) else {}


def _reason(said: Any) -> str:
    errors = said.get("errors") if isinstance(said, dict) else None
    first = errors[0] if isinstance(errors, list) and errors and isinstance(errors[0], dict) else {}
    return f": {str(first['message'])[:300].rstrip('.')}" if first.get("message") else ""


register_adapter(CloudflareAdapter())
