"""JSON API of runners: those of an account, and what they ask. Each module adds its views to the blueprint."""

from flask import Flask

from views.runners.api import (
    runner_routes,
    runners_api_blueprint,
    work_call_routes,
    work_routes,
    work_tree_routes,
)
from views.runners.api.runners_api_blueprint import bp


def init_app(app: Flask) -> None:
    """Register the routes, and what wakes those that wait."""
    runners_api_blueprint.init_app(app)
    app.register_blueprint(bp)


__all__ = ["bp", "init_app", "runner_routes", "work_call_routes", "work_routes", "work_tree_routes"]
