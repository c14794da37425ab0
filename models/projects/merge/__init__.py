"""Three-way merges of trees and files, with a label on each path and a decision wherever a merge could be wrong."""

from models.projects.merge.content_merge import ContentMerge, merge_contents
from models.projects.merge.manifest_trees import flat_tree, manifest_entries
from models.projects.merge.merge_model import (
    CUSTOM,
    USE_MAIN,
    USE_WORKSPACE,
    BlobReader,
    Contest,
    FlatTree,
    MergeDecision,
    MergeEntry,
    MergeLabel,
    MergePlan,
    MergeReason,
    MergeWarning,
    PathMerge,
    Side,
    TreeMerge,
    WarningKind,
)
from models.projects.merge.merge_planning import plan
from models.projects.merge.settling import DecisionsMissing, SettledTree, settle
from models.projects.merge.tree_merge import merge_trees

__all__ = [
    "CUSTOM",
    "USE_MAIN",
    "USE_WORKSPACE",
    "BlobReader",
    "ContentMerge",
    "Contest",
    "DecisionsMissing",
    "FlatTree",
    "MergeDecision",
    "MergeEntry",
    "MergeLabel",
    "MergePlan",
    "MergeReason",
    "MergeWarning",
    "PathMerge",
    "SettledTree",
    "Side",
    "TreeMerge",
    "WarningKind",
    "flat_tree",
    "manifest_entries",
    "merge_contents",
    "merge_trees",
    "plan",
    "settle",
]
