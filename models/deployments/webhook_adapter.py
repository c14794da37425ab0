"""The adapter `webhook`: asks one's own CI to deploy, by a signed request, and waits until it reports the result."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import requests

from models.core import outgoing
from models.core.db import extension, now
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
    ProviderBusy,
    ProviderLine,
    register_adapter,
    variable_names,
)
from models.deployments.deployment_setting import DeploymentSetting, setting_of, webhook_secret
from models.deployments.provider_calls import PAUSE
from models.orgs.webhook_sending import OutgoingEvent, send_event, signatures
from models.projects import Project, Workspace
from models.projects.snapshots.manifest_store import tree_entries

HEALTH_SECONDS = 10.0


class WebhookAdapter:
    """One's own CI."""

    name = "webhook"
    capabilities = Capabilities("Your own CI, by webhook", waits=True)

    def plan(self, project: Project, root: str, setting: DeploymentSetting) -> DeploymentPlan:
        """The whole snapshot; which part is deployed, the CI knows. Raises NotDeployable."""
        if not setting.webhook_url or webhook_secret(setting) is None:
            raise NotDeployable("Set the address of your CI, and the secret that signs the requests.")
        files = [each for each in tree_entries(project.account_id, root) if each.kind == "file"]
        names = variable_names(project.id, setting.workspace_id)
        return DeploymentPlan(root, ".", len(files), sum(each.size or 0 for each in files), names)

    def task(
        self, project: Project, workspace: Workspace, deployment: Deployment, plan: DeploymentPlan
    ) -> DeploymentTask:
        """What is sent. Raises DeploymentFailed if the address or the secret is gone."""
        setting = setting_of(project.id, workspace.id)
        secret = webhook_secret(setting)
        if secret is None or not setting.webhook_url:
            raise DeploymentFailed("The address of the CI, or its secret, was removed.")
        facts = {
            "deployment_id": deployment.id,
            "project_id": project.id,
            "workspace_id": workspace.id,
            "workspace": workspace.name,
            "snapshot_id": deployment.snapshot_id,
            "trigger": deployment.trigger,
            "message": deployment.message,
            "variables": list(plan.variables),
            "status_url": f"{extension('settings').base_url}/v1/infrastructure/deployments/{deployment.id}/status",
        }
        about = {
            "url": setting.webhook_url,
            "check": deployment.url if deployment.state == "checking" else None,
        }
        return DeploymentTask(deployment.id, project.account_id, "", plan, facts, secret, about)

    def deploy(self, task: DeploymentTask, log: Log) -> DeploymentOutcome:
        """Ask the CI to begin; once it reported an address, check that this answers. Raises DeploymentFailed."""
        if address := task.metadata["check"]:
            return _checked(address, log)
        body = orjson.dumps(
            {"type": "deployment.requested", "timestamp": now().isoformat(), "data": dict(task.facts)}
        )
        moment = int(now().timestamp())
        id = f"msg_{hashlib.sha256(task.key.encode()).hexdigest()[:32]}"
        event = OutgoingEvent(
            task.metadata["url"],
            body,
            {
                "Content-Type": "application/json",
                "User-Agent": "Stoa",
                "webhook-id": id,
                "webhook-timestamp": str(moment),
                "webhook-signature": signatures([task.secret], id, moment, body),
            },
        )
        answer = send_event(event)
        if not answer.ok:
            raise _refusal(answer.status)
        log("deploy", f"The CI answered {answer.status}. It reports the result.")
        return DeploymentOutcome(done=False)

    def release(self, task: DeploymentTask, log: Log) -> DeploymentOutcome:
        """Only the CI could: its snapshot is deployed anew."""
        raise DeploymentFailed("A CI releases nothing again. Deploy the snapshot anew.")

    def logs(self, task: DeploymentTask) -> Sequence[ProviderLine]:
        """Only the CI knows them."""
        raise DeploymentFailed("The log is at your CI.")

    def health(self, deployment: Deployment) -> DeploymentHealth:
        """Only the CI knows it afterwards."""
        return DeploymentHealth(None, "Your CI deployed it. Nobody checks it now.")

    def destroy(self, provider_resource_id: str, token: str, metadata: Mapping[str, Any]) -> None:
        """It makes no resources."""
        raise DeploymentFailed("A CI has no resources here.")


def _refusal(status: int | None) -> DeploymentFailed:
    """Why the CI did not take it, which a repetition may mend if it is busy or down."""
    if status is None:
        return ProviderBusy("The CI cannot be reached.", PAUSE)
    if status == 429 or status >= 500:
        return ProviderBusy(f"The CI answered {status}.", PAUSE)
    if status in (401, 403):
        return DeploymentFailed(
            f"The CI answered {status}: it does not accept the request. Compare the secret there with that of the settings."
        )
    return DeploymentFailed(f"The CI answered {status}.")


def _checked(address: str, log: Log) -> DeploymentOutcome:
    session = outgoing.guarded(requests.Session(), extension("settings"), seconds=HEALTH_SECONDS)
    try:
        status = session.get(address, headers={"User-Agent": "Stoa"}).status_code
    except requests.RequestException:
        raise DeploymentFailed(
            "The CI reported success, but the address that it named cannot be reached."
        ) from None
    finally:
        session.close()
    log("deploy", f"The address answers {status}.")
    if status >= 500:
        raise DeploymentFailed(f"The CI reported success, but the address that it named answers {status}.")
    return DeploymentOutcome(url=address)


register_adapter(WebhookAdapter())
