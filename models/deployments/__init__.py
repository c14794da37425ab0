"""Deployments: what a project shows the world, from which snapshot; credentials, resources, and the places to deploy to."""

from models.deployments import (
    account_ends,
    auto_deploying,
    build_running,
    cloudflare_adapter,
    exported_deployments,
    process_adapter,
    railway_adapter,
    static_adapter,
    webhook_adapter,
)
from models.deployments.deployed_process import DeployedProcess
from models.deployments.deployment import DeployedSite, Deployment, DeploymentLogLine
from models.deployments.deployment_listing import failed_deployments
from models.deployments.deployment_running import deployment_finished
from models.deployments.deployment_setting import DeploymentSetting
from models.deployments.infrastructure_resource import InfrastructureResource
from models.deployments.provider_credential import ProviderCredential
from models.deployments.site_traffic import SiteTraffic

__all__ = [
    "DeployedProcess",
    "DeployedSite",
    "Deployment",
    "DeploymentLogLine",
    "DeploymentSetting",
    "InfrastructureResource",
    "ProviderCredential",
    "SiteTraffic",
    "account_ends",
    "auto_deploying",
    "build_running",
    "cloudflare_adapter",
    "deployment_finished",
    "exported_deployments",
    "failed_deployments",
    "process_adapter",
    "railway_adapter",
    "static_adapter",
    "webhook_adapter",
]
