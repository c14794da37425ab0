"""Operator data: finding and reviewing accounts, jobs and storage, and evaluation results."""

from models.admin.git_evals import GitEvalResults
from models.admin.relabels import TraceRelabel
from models.admin.storage_review import StorageSample

__all__ = [
    "GitEvalResults",
    "StorageSample",
    "TraceRelabel",
]
