"""Pages of runs, and of stopping all calls of an account."""

from views.runs.pages import run_pages, stop_pages

__all__ = ["run_pages", "stop_pages"]
