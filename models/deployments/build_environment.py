"""The variables that builds and processes of a deployment get: those of the project and its workspace, read when they start."""

from models.deployments.deployment_adapter import DeploymentFailed
from models.projects import Project, Workspace
from models.projects.environment import opened_variables

MOST = 512 << 10
"""Bytes of all names and values: more, and the kernel starts no program."""


def build_variables(project: Project, workspace: Workspace) -> dict[str, str]:
    """The names and values. Never log the values. Raises DeploymentFailed for one that cannot be read, and for too many bytes."""
    found = opened_variables(project, workspace)
    lost = next((each.row.key for each in found if each.value is None), None)
    if lost is not None:
        raise DeploymentFailed(
            f"The value of the variable {lost} cannot be read: the secret key of this server changed. Set it again."
        )
    values = {each.row.key: each.value or "" for each in found}
    if sum(len(name) + len(value.encode()) for name, value in values.items()) > MOST:
        raise DeploymentFailed(f"The variables have more than {MOST >> 10} KiB, which no program takes.")
    return values
