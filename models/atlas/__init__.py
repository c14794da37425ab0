"""The map of a project: what it consists of, what depends on what, where things are, and pictures of it."""

from models.atlas import decision_following as decision_following  # its receivers
from models.atlas.atlas_correction import AtlasCorrection
from models.atlas.atlas_indexing import AtlasCounts, atlas_counts, embed_chunks, index_project
from models.atlas.atlas_search import AtlasHit, search_atlas
from models.atlas.atlas_tables import (
    AtlasChunk,
    AtlasConcept,
    AtlasDecisionLink,
    AtlasDiagram,
    AtlasEdge,
    AtlasIndex,
    CodeFacts,
)
from models.atlas.atlas_words import AtlasWords
from models.atlas.index_planning import NoFiles
from models.atlas.symbol_uses import dependents_of, outline_of, uses_of

__all__ = [
    "AtlasChunk",
    "AtlasConcept",
    "AtlasCorrection",
    "AtlasCounts",
    "AtlasDecisionLink",
    "AtlasDiagram",
    "AtlasEdge",
    "AtlasHit",
    "AtlasIndex",
    "AtlasWords",
    "CodeFacts",
    "NoFiles",
    "atlas_counts",
    "dependents_of",
    "embed_chunks",
    "index_project",
    "outline_of",
    "search_atlas",
    "uses_of",
]
