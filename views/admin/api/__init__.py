"""JSON routes of operators and of evaluation results (contract 2.12 and 2.13)."""

from views.admin.api import eval_routes, feedback_routes, org_admin_routes, relabel_routes, trace_routes
from views.admin.api.admin_api_blueprint import bp

__all__ = ["bp", "eval_routes", "feedback_routes", "org_admin_routes", "relabel_routes", "trace_routes"]
