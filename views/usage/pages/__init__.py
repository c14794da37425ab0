"""Pages of usage. `spending_view` is also used by organisations' pages."""

from views.usage.pages import calls, first_call_page, spending_view
from views.usage.pages.own_usage import KINDS, bp

__all__ = [
    "KINDS",
    "bp",
    "calls",
    "first_call_page",
    "spending_view",
]
