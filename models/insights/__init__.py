"""Insights: what to do next in a project. Action items with their analysers, decisions with their sources, and next steps."""

from models.insights import analysing as analysing
from models.insights import decision_extracting as decision_extracting
from models.insights import decision_verbs as decision_verbs
from models.insights import deploy_items as deploy_items
from models.insights import drift_items as drift_items
from models.insights.action_item import ActionItem
from models.insights.decision_extraction import DecisionExtraction, DecisionSetting
from models.insights.item_finding import FoundItem
from models.insights.item_listing import ListedItem, register_item_source
from models.insights.item_run import ActionItemRun
from models.insights.item_run_driving import ItemRunTurns
from models.insights.item_storing import resolve_items, upsert_item
from models.insights.next_step import NextStep
from models.insights.project_decision import ProjectDecision
from models.insights.workspace_analysis import WorkspaceAnalysis

__all__ = [
    "ActionItem",
    "ActionItemRun",
    "DecisionExtraction",
    "DecisionSetting",
    "FoundItem",
    "ItemRunTurns",
    "ListedItem",
    "NextStep",
    "ProjectDecision",
    "WorkspaceAnalysis",
    "register_item_source",
    "resolve_items",
    "upsert_item",
]
