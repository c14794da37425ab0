"""Pages of runs, of links that share them, and of stopping all calls of an account."""

from views.runs.pages import run_list, run_note_forms, run_pages, run_sharing, stop_pages
from views.runs.pages.run_pages import call_address

__all__ = ["call_address", "run_list", "run_note_forms", "run_pages", "run_sharing", "stop_pages"]
