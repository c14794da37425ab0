"""Operator data: finding and reviewing accounts, jobs and storage, and evaluation results."""

from models.admin.feedback import Feedback
from models.admin.git_evals import GitEvalResults
from models.admin.relabels import TraceRelabel
from models.admin.storage_review import StorageSample

__all__ = [
    "Feedback",
    "GitEvalResults",
    "StorageSample",
    "TraceRelabel",
]
