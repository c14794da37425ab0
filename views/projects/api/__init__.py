"""JSON API of projects, their workspaces, snapshots and bytes (fastest contract). Each module adds its views to the blueprint."""

from views.projects.api import (
    blob_batch_routes,
    blob_routes,
    client_account_routes,
    device_routes,
    drift_routes,
    environment_routes,
    operation_routes,
    part_routes,
    project_routes,
    snapshot_routes,
    sync_routes,
    workspace_routes,
)
from views.projects.api.projects_api_blueprint import bp

__all__ = [
    "blob_batch_routes",
    "blob_routes",
    "bp",
    "client_account_routes",
    "device_routes",
    "drift_routes",
    "environment_routes",
    "operation_routes",
    "part_routes",
    "project_routes",
    "snapshot_routes",
    "sync_routes",
    "workspace_routes",
]
