"""What one's own CI reports of a deployment: believed for a failure, checked for a success."""

from urllib.parse import urlsplit

from models.core import jobs
from models.core.db import db, lock_name
from models.core.errors import Conflict, Invalid
from models.core.outgoing import MAX_URL_LENGTH
from models.deployments.deployment import UNDER_WAY, Deployment
from models.deployments.deployment_adapter import adapter_of
from models.deployments.deployment_running import fail, succeed, write_log

MAX_ERROR = 2_000


def report_status(deployment: Deployment, status: str, url: str | None, error: str | None) -> None:
    """Record how a deployment goes: one that failed has ended; a success with an address is `checking` until that answers, without one it
    is live. Repeating the same is fine. Flushes. Raises Conflict (409) if the server itself decides, or it ended otherwise; Invalid (422)."""
    if not adapter_of(deployment.adapter).capabilities.waits:
        raise Conflict("The server checks this deployment itself, and decides its status by that.")
    if error is not None and (len(error) > MAX_ERROR or "\0" in error):
        raise Invalid(f"'error' must have at most {MAX_ERROR:,} characters, and no NUL.")
    if url is not None:
        _check_address(url)
    lock_name(f"deploy {deployment.workspace_id}")
    db.session.refresh(deployment)
    if deployment.state not in UNDER_WAY:
        if deployment.status == status:
            return
        raise Conflict(f"This deployment has ended: it is {deployment.state.replace('_', ' ')}.")
    if status == "failed":
        fail(deployment, error or "The CI reported a failure.")
    elif status == "success" and url is None:
        write_log(deployment, "deploy", ["The CI reported success, without an address to check."])
        succeed(deployment, None)
    elif status == "success":
        deployment.state, deployment.url = "checking", url
        write_log(deployment, "deploy", [f"The CI reported success at {url}. It is checked."])
        jobs.enqueue(jobs.run_deployment, lock=f"deploy {deployment.workspace_id}", id=deployment.id)
    else:
        write_log(deployment, "deploy", ["The CI is at work."])


def _check_address(url: str) -> None:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.username is None
    except ValueError:
        usable = False
    if not usable or len(url) > MAX_URL_LENGTH or not url.isprintable() or " " in url:
        raise Invalid("'url' must be a whole address, such as https://app.example.org.")
