"""Rows for pages of deployments: one live, one replaced, one failed, a program that was given up, a credential and a resource."""

from datetime import timedelta
from typing import Any

from models.core.db import db, extension, now
from models.deployments import DeployedProcess, Deployment
from models.deployments.deployed_process import process_folder
from models.deployments.deployment_running import start_deployment, write_log
from models.deployments.infrastructure_resource import record_resource
from models.deployments.process_log import ProcessLog
from models.deployments.provider_credential import store_credential
from models.ledger import Account
from models.projects import Project
from models.projects.project_ids import new_id
from tests.projects.project_rows import LONG, caller_of, pushed


def program_row(project_id: str, workspace_id: str, snapshot_id: str, **more: Any) -> Deployment:
    """A program that ran, and was given up, with what it wrote last."""
    build = {"start": "gunicorn app:app --bind $HOST:$PORT", "health": "/healthz"}
    build |= {"install": None, "build": "make assets", "hosts": ["pypi.org"], "folder": None}
    facts: dict[str, Any] = {
        "state": "failed",
        "error": "The program ended with code 1, after 0.4 seconds. It was started again 5 times in a row.",
        "released_at": now(),
        "completed_at": now(),
        "built_manifest": "0" * 64,
        "url": "http://pier.sites.localhost:8000/",
    }
    row = Deployment(
        id=new_id(),
        project_id=project_id,
        workspace_id=workspace_id,
        snapshot_id=snapshot_id,
        adapter="process",
        trigger="manual",
        detail={"folder": ".", "files": 12, "bytes": 90_000, "variables": ["DATABASE_URL"], "build": build},
        started_at=now() - timedelta(hours=1),
        **(facts | more),
    )
    db.session.add(row)
    db.session.flush()
    db.session.add(DeployedProcess(deployment_id=row.id, failures=3, reason=row.error, replaces="stopped"))
    write_log(row, "build", ["$ make assets", "Done after 4.1 s."])
    db.session.flush()
    log = ProcessLog(process_folder(extension("settings"), row.id), [])
    log.take("[INFO] Starting gunicorn 27.0.0\n[ERROR] No module named 'app'\n")
    return row


def deployment_rows(user_id: str, account: Account, ids: dict[str, str]) -> dict[str, str]:
    """Make them in the current transaction, for a project of `project_rows`, whose heads stay; ids for the arguments of routes."""
    caller, id = caller_of(user_id, account), ids["project_id"]
    main = db.session.get_one(Project, id).main_workspace_id or ""
    first = pushed(caller, id, "", {"index.html": "<p>one"}, "A site")
    start_deployment(caller, main, snapshot_id=first)
    second = pushed(caller, id, "", {"index.html": "<p>two", "a.css": ""}, LONG, first)
    live = start_deployment(caller, main, snapshot_id=second)
    start_deployment(caller, main)
    program_row(id, main, second)
    store_credential(caller, account, "cloudflare", "token-of-nobody-1234", {"account": "Pier"})
    resource = record_resource(id, "compute:edge", "cloudflare", "pier-1", "app", {"url": "https://x"})
    return {"deployment_id": live.id, "resource_id": resource.id, "credentials/provider": "cloudflare"}
