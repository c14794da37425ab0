"""Pages of deployments of a project, and the hosts of sites."""

from views.deployments.pages import (
    connection_pages,
    provider_log_page,
    ship_page,
    ship_settings_page,
    site_host,
)
from views.deployments.pages.ship_blueprint import bp

__all__ = ["bp", "connection_pages", "provider_log_page", "ship_page", "ship_settings_page", "site_host"]
