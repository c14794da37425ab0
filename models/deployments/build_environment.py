"""The variables that builds and processes of a deployment get: those of the project and its workspace, read when they start."""

from models.deployments.deployment_adapter import DeploymentFailed, deployed_variables
from models.projects import Project, Workspace

MOST = 512 << 10
"""Bytes of all names and values: more, and the kernel starts no program."""


def build_variables(project: Project, workspace: Workspace) -> dict[str, str]:
    """The names and values. Never log the values. Raises DeploymentFailed for one that cannot be read, and for too many bytes."""
    values = deployed_variables(project, workspace)
    if sum(len(name) + len(value.encode()) for name, value in values.items()) > MOST:
        raise DeploymentFailed(f"The variables have more than {MOST >> 10} KiB, which no program takes.")
    return values
