"""Operators' pages, for e-mail addresses in STOA_ADMINS, and to read for those in STOA_AUDITORS. They show the same data as the
commands of the same names."""

from views.admin.pages import (
    account_acts,
    admin_overview,
    eval_pages,
    feedback_page,
    job_pages,
    operator_account_page,
    org_list_page,
    price_pages,
    proof_pages,
    provider_pages,
    relabel_page,
    storage_page,
    takedown_page,
    trace_pages,
    webhook_pages,
)
from views.admin.pages.billing_operations import bp

__all__ = [
    "account_acts",
    "admin_overview",
    "bp",
    "eval_pages",
    "feedback_page",
    "job_pages",
    "operator_account_page",
    "org_list_page",
    "price_pages",
    "proof_pages",
    "provider_pages",
    "relabel_page",
    "storage_page",
    "takedown_page",
    "trace_pages",
    "webhook_pages",
]
