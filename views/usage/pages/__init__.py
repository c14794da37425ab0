"""Pages of usage. `spending_view` is also used by organisations' pages."""

from views.usage.pages import calls, spending_view
from views.usage.pages.own_usage import KINDS, bp

__all__ = ["KINDS", "bp", "calls", "spending_view"]
