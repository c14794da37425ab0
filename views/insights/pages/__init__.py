"""Pages of insights: the inbox, runs of its items, next steps and decisions."""

from views.insights.pages import (
    decision_pages,
    inbox_pages,
    item_check_pages,
    item_rebase_pages,
    item_run_pages,
    model_pages,
    next_step_pages,
    wide_inbox_page,
)
from views.insights.pages.insight_blueprint import bp

__all__ = [
    "bp",
    "decision_pages",
    "inbox_pages",
    "item_check_pages",
    "item_rebase_pages",
    "item_run_pages",
    "model_pages",
    "next_step_pages",
    "wide_inbox_page",
]
