"""JSON API of runners: those of an account, and what they ask. Each module adds its views to the blueprint."""

from views.runners.api import runner_routes, work_routes
from views.runners.api.runners_api_blueprint import bp

__all__ = ["bp", "runner_routes", "work_routes"]
