"""Settings of deployments: of each workspace where it deploys to, from which folder, and whether a moved head deploys by itself."""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import ARRAY, CheckConstraint, ForeignKey, ForeignKeyConstraint, Index, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from models.core import outgoing
from models.core.db import NOW, Base, db, extension, now
from models.core.errors import Invalid
from models.core.sealing import SealBroken, open_sealed, seal
from models.deployments.deployment import ADAPTERS
from models.projects.project import one_of
from models.projects.project_access import ProjectCaller, own_workspace
from models.projects.snapshots.manifest_text import MAX_DEPTH

RUNTIMES = ("node", "python", "go", "static")
MAX_COMMAND, MAX_FOLDER, MIN_SECRET, MAX_SECRET = 2_000, 500, 16, 500
MAX_HOSTS, MAX_HEALTH = 20, 500
_HOST = re.compile(r"(\*\.)?([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]{2,63}")
PURPOSE = "deployhook"
_FIELDS = (
    *("adapter", "auto_deploy", "run_checks", "runtime_override", "build_command", "start_command"),
    *("install_command", "health_path", "build_hosts", "folder", "webhook_url", "webhook_secret"),
)


class DeploymentSetting(Base):
    """How a workspace deploys. `run_checks`: before it deploys by itself. `folder` is what is served, None to find it. Commands are None to find
    them in the files. `build_hosts` are those that install and build may reach, `health_path` what a process must answer to be live, None for /. `webhook_sealed` is the secret that signs requests to one's own
    CI at `webhook_url`, sealed and bound to the workspace."""

    __tablename__ = "deployment_setting"
    __table_args__ = (
        CheckConstraint(one_of("adapter", ADAPTERS), name="adapter_known"),
        CheckConstraint(
            f"((runtime_override IS NULL) OR {one_of('runtime_override', RUNTIMES)})", name="runtime_known"
        ),
        ForeignKeyConstraint(
            ["project_id", "workspace_id"],
            ["workspace.project_id", "workspace.id"],
            name="deployment_setting_workspace_fk",
            ondelete="CASCADE",
        ),
        Index("idx_deployment_setting_project", "project_id"),
    )

    workspace_id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("project.id", ondelete="CASCADE"))
    adapter: Mapped[str]
    auto_deploy: Mapped[bool]
    run_checks: Mapped[bool] = mapped_column(server_default=text("false"))
    runtime_override: Mapped[str | None]
    build_command: Mapped[str | None]
    start_command: Mapped[str | None]
    install_command: Mapped[str | None]
    health_path: Mapped[str | None]
    build_hosts: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{}'::text[]"))
    folder: Mapped[str | None]
    webhook_url: Mapped[str | None]
    webhook_sealed: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    updated_at: Mapped[datetime] = mapped_column(server_default=NOW)


def setting_of(project_id: str, workspace_id: str) -> DeploymentSetting:
    """The settings of a workspace; defaults, in no table yet, if none were saved."""
    found = db.session.get(DeploymentSetting, workspace_id)
    if found is not None:
        return found
    moment = now()
    return DeploymentSetting(
        workspace_id=workspace_id,
        project_id=project_id,
        adapter="static",
        auto_deploy=False,
        run_checks=False,
        build_hosts=[],
        created_at=moment,
        updated_at=moment,
    )


def save_settings(caller: ProjectCaller, workspace_id: str, changes: Mapping[str, Any]) -> DeploymentSetting:
    """Change some settings of a workspace; None clears one, other keys stay. Locks the workspace, flushes. Raises Invalid (422), NotFound,
    Forbidden."""
    project, workspace = own_workspace(caller, workspace_id, "edit_projects", lock=True)
    setting = setting_of(project.id, workspace.id)
    for name in _FIELDS:
        if name in changes:
            _set(setting, name, _clean(name, changes[name]))
    if setting.adapter == "webhook" and not (setting.webhook_url and setting.webhook_sealed):
        missing = "webhook_secret" if setting.webhook_url else "webhook_url"
        raise _wrong(missing, "A webhook needs its address and a secret that signs it.")
    setting.updated_at = now()
    db.session.add(setting)
    db.session.flush()
    return setting


def webhook_secret(setting: DeploymentSetting) -> bytes | None:
    """The secret that signs requests to one's own CI; None if there is none, or it was sealed with another STOA_SECRET_KEY. Never log it."""
    if setting.webhook_sealed is None:
        return None
    try:
        key = extension("settings").secret_key
        return open_sealed(key, PURPOSE, setting.webhook_sealed, context=setting.workspace_id)
    except SealBroken:
        return None


def _set(setting: DeploymentSetting, name: str, value: Any) -> None:
    if name != "webhook_secret":
        setattr(setting, name, value)
    elif value is None:
        setting.webhook_sealed = None
    else:
        key = extension("settings").secret_key
        setting.webhook_sealed = seal(key, PURPOSE, value.encode(), context=setting.workspace_id)


def _clean(name: str, value: Any) -> Any:
    """The value as it is stored. Raises Invalid."""
    if isinstance(value, str) and "\0" in value:
        raise _wrong(name, "NUL characters are not allowed.")
    if name in ("auto_deploy", "run_checks"):
        return bool(value)
    if name == "build_hosts":
        return _hosts(value or [])
    value = value.strip() if isinstance(value, str) else value
    if name == "adapter":
        return _word(name, value or "static", ADAPTERS)
    if not value:
        return None
    match name:
        case "runtime_override":
            return _word(name, value, RUNTIMES)
        case "folder":
            return _folder(value)
        case "health_path":
            return _health_path(value)
        case "webhook_url":
            return _address(value)
        case "webhook_secret" if not MIN_SECRET <= len(value) <= MAX_SECRET:
            raise _wrong(name, f"Use {MIN_SECRET} to {MAX_SECRET} characters.")
    if len(value) > MAX_COMMAND:
        raise _wrong(name, f"Use at most {MAX_COMMAND:,} characters.")
    return value


def _word(name: str, value: str, words: tuple[str, ...]) -> str:
    if value not in words:
        raise _wrong(name, f"It must be one of {', '.join(words)}.")
    return value


def _folder(value: str) -> str:
    segments = [each for each in value.split("/") if each and each != "."]
    if len(value) > MAX_FOLDER or len(segments) > MAX_DEPTH or ".." in segments or "\\" in value:
        raise _wrong("folder", "Name a folder of the project, such as dist or site/public.")
    return "/".join(segments) or "."


def _hosts(values: Sequence[str]) -> list[str]:
    hosts = list(dict.fromkeys(each.strip().lower() for each in values if each.strip()))
    if len(hosts) > MAX_HOSTS or not all(_HOST.fullmatch(each) and len(each) <= 253 for each in hosts):
        raise _wrong(
            "build_hosts",
            f"Name at most {MAX_HOSTS} hosts without scheme and port, such as registry.npmjs.org or *.pythonhosted.org.",
        )
    return hosts


def _health_path(value: str) -> str:
    if (
        len(value) > MAX_HEALTH
        or not re.fullmatch(r"/[!-~]*", value)
        or value.startswith("//")
        or "#" in value
    ):
        raise _wrong("health_path", "Enter a path that begins with one /, such as /healthz.")
    return value


def _address(value: str) -> str:
    try:
        parts = urlsplit(value)
        plain = parts.username is None and parts.port != 0 and bool(parts.hostname)
    except ValueError:
        plain = False
    if len(value) > outgoing.MAX_URL_LENGTH or not plain or not re.match(r"https?://\S+$", value):
        raise _wrong("webhook_url", "Enter the whole address, such as https://ci.example.org/deploy.")
    return value


def _wrong(name: str, message: str) -> Invalid:
    return Invalid(f"'{name}': {message}", fields={name: message})
