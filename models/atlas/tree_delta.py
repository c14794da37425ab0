"""What differs between the files that a map describes and those of now, if that is little enough to change only these parts of it."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from sqlalchemy import select

from models.atlas.atlas_tables import AtlasConcept, AtlasIndex
from models.atlas.fact_reading import PARSER_VERSION
from models.atlas.tree_concepts import MAX_FILES, TreeConcepts, code_id, is_mapped, is_too_long, places_of
from models.core.db import db
from models.projects.snapshots.blob_packs import BlobDamaged
from models.projects.snapshots.manifest_store import tree_changes
from models.projects.snapshots.manifest_text import Entry
from models.projects.snapshots.stored_objects import Tree, among

MAX_TOUCHED = 400
"""Files that differ; with more, the whole map is made again."""


@dataclass(frozen=True)
class FilesDelta:
    """The files that differ from the tree `base`, which the map describes: by path, as they were `before`, and as they are `after`."""

    base: str
    before: Mapping[str, Entry]
    after: Mapping[str, Entry]

    @cached_property
    def came(self) -> set[str]:
        """The files that are new."""
        return self.after.keys() - self.before.keys()

    @cached_property
    def went(self) -> set[str]:
        """The files that are gone."""
        return self.before.keys() - self.after.keys()

    @property
    def touched(self) -> set[str]:
        """All of them."""
        return self.before.keys() | self.after.keys()

    @property
    def moved(self) -> bool:
        """Whether files came or went."""
        return bool(self.came or self.went)

    def starts_from(self, index: AtlasIndex) -> bool:
        """Whether the map is a whole one of the tree that this begins at."""
        return index.tree_hash == self.base and _is_whole(index)


def tree_delta(account_id: str, index: AtlasIndex | None, tree: str) -> FilesDelta | None:
    """What differs; None if the map has to be made whole: there is none, it was not finished, the tree that it describes is collected, or
    too much differs."""
    if index is None or not _is_whole(index) or db.session.get(Tree, (account_id, index.tree_hash)) is None:
        return None
    try:
        changes = tree_changes(account_id, index.tree_hash, tree)
    except (
        BlobDamaged
    ):  # a part of the old tree is collected; if one of the new tree is, the whole map says so
        return None
    before, after = {}, {}
    for path, (old, new) in changes.items():
        if (old and old.hash) == (new and new.hash) and (old and old.kind) == (new and new.kind):
            continue  # another mode
        if old is not None and is_mapped(old):
            before[path] = old
        if new is not None and is_mapped(new):
            after[path] = new
    delta = FilesDelta(index.tree_hash, before, after)
    too_many = index.files + len(delta.came) - len(delta.went) > MAX_FILES
    if len(delta.touched) > MAX_TOUCHED or too_many or any(map(is_too_long, after)):
        return None
    return delta


def delta_concepts(project_id: str, delta: FilesDelta) -> tuple[TreeConcepts, set[str]]:
    """The concepts of the files that differ, and of the systems and modules whose number of files does; and the ids of all of these, of
    which those without a concept are gone."""
    found = TreeConcepts(files=dict(sorted(delta.after.items())))
    for path, entry in found.files.items():
        found.add_file(path, entry)
    counts = Counter(id for path in delta.came for id in places_of(path))
    counts.subtract(id for path in delta.went for id in places_of(path))
    query = select(AtlasConcept.id, AtlasConcept.details).where(
        AtlasConcept.project_id == project_id, among(AtlasConcept.id, counts)
    )
    counts.update({id: (details or {}).get("files", 0) for id, details in db.session.execute(query)})
    found.add_places({id: count for id, count in counts.items() if count > 0})
    return found, {*counts, *map(code_id, delta.touched)}


def _is_whole(index: AtlasIndex) -> bool:
    complete = index.unread == 0 and index.left_out == 0
    return bool(index.tree_hash) and complete and index.version == PARSER_VERSION
