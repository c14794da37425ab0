"""JSON API of deployments (fastest contract 3.15). Each module adds its views to the blueprint."""

from views.deployments.api import (
    credential_routes,
    deployment_routes,
    provider_log_routes,
    resource_routes,
    traffic_routes,
    workspace_deploy_routes,
)
from views.deployments.api.deployments_api_blueprint import bp

__all__ = [
    "bp",
    "credential_routes",
    "deployment_routes",
    "provider_log_routes",
    "resource_routes",
    "traffic_routes",
    "workspace_deploy_routes",
]
