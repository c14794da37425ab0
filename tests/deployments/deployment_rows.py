"""Rows for pages of deployments: one live, one replaced, one failed, a credential and a resource."""

from models.core.db import db
from models.deployments.deployment_running import start_deployment
from models.deployments.infrastructure_resource import record_resource
from models.deployments.provider_credential import store_credential
from models.ledger import Account
from models.projects import Project
from tests.projects.project_rows import LONG, caller_of, pushed


def deployment_rows(user_id: str, account: Account, ids: dict[str, str]) -> dict[str, str]:
    """Make them in the current transaction, for a project of `project_rows`, whose heads stay; ids for the arguments of routes."""
    caller, id = caller_of(user_id, account), ids["project_id"]
    main = db.session.get_one(Project, id).main_workspace_id or ""
    first = pushed(caller, id, "", {"index.html": "<p>one"}, "A site")
    start_deployment(caller, main, snapshot_id=first)
    second = pushed(caller, id, "", {"index.html": "<p>two", "a.css": ""}, LONG, first)
    live = start_deployment(caller, main, snapshot_id=second)
    start_deployment(caller, main)
    store_credential(caller, account, "cloudflare", "token-of-nobody-1234", {"account": "Pier"})
    resource = record_resource(id, "compute:edge", "cloudflare", "pier-1", "app", {"url": "https://x"})
    return {"deployment_id": live.id, "resource_id": resource.id, "credentials/provider": "cloudflare"}
