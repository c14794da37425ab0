"""Pages of runs, and of stopping all calls of an account."""

from views.runs.pages import run_pages, stop_pages
from views.runs.pages.run_pages import call_address

__all__ = ["call_address", "run_pages", "stop_pages"]
