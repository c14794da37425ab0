"""Operator data: finding and reviewing accounts, traces and their relabels, and evaluation results."""

from models.admin.git_evals import GitEvalResults
from models.admin.relabels import TraceRelabel

__all__ = ["GitEvalResults", "TraceRelabel"]
