"""JSON API of insights: action items, their runs, next steps and decisions. Each module adds its views to the blueprint."""

from views.insights.api import (
    check_host_routes,
    decision_routes,
    item_routes,
    item_run_routes,
    next_step_routes,
)
from views.insights.api.insights_api_blueprint import bp

__all__ = ["bp", "check_host_routes", "decision_routes", "item_routes", "item_run_routes", "next_step_routes"]
