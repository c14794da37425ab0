"""Operator data: finding and reviewing accounts, and evaluation results."""

from models.admin.git_evals import GitEvalResults

__all__ = ["GitEvalResults"]
