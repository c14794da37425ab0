"""JSON routes of usage: the balance (`bp`), and usage as rows and as sums."""

from views.usage.api import usage_row_routes, usage_sum_routes
from views.usage.api.balance_routes import bp

__all__ = ["bp", "usage_row_routes", "usage_sum_routes"]
