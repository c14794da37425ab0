"""What is known of a map's files for the imports of all: read from the facts of files when it is asked for, and no more than is."""

from collections.abc import Collection, Mapping
from functools import cached_property
from typing import Any

from sqlalchemy import Select, and_, or_, select

from models.atlas.atlas_tables import AtlasConcept, CodeFacts
from models.atlas.fact_cache import FactKey
from models.atlas.fact_reading import PARSER_VERSION
from models.atlas.import_resolution import OF_PACKAGES, FileNames, ReadFile
from models.atlas.tree_concepts import code_id
from models.core.cooperative import in_slices
from models.core.db import db
from models.projects.snapshots.stored_objects import among, among_hashes

_HAS_IMPORTS = or_(CodeFacts.package.is_not(None), CodeFacts.imports != [])


class TreeImports:
    """The files of a project as its map has them."""

    def __init__(self, project_id: str, account_id: str) -> None:
        self._project_id, self._account_id = project_id, account_id

    @cached_property
    def paths(self) -> set[str]:
        """All files."""
        query = select(AtlasConcept.id).where(
            AtlasConcept.project_id == self._project_id, AtlasConcept.layer == "code"
        )
        return {id.removeprefix("code:") for id in db.session.scalars(query)}

    @cached_property
    def files(self) -> dict[str, ReadFile]:
        """All that import something or name their package."""
        return self._files(self._query(*self._columns()).where(_HAS_IMPORTS))

    def files_of(self, paths: Collection[str]) -> dict[str, ReadFile]:
        """Those of these files that import something or name their package."""
        query = self._query(*self._columns()).where(_HAS_IMPORTS)
        return self._files(query.where(among(AtlasConcept.id, map(code_id, paths))))

    def names_of(self, paths: Collection[str]) -> dict[str, FileNames]:
        """What these files define and use."""
        query = self._query(AtlasConcept.id, CodeFacts.facts["defs"], CodeFacts.facts["refs"])
        rows = db.session.execute(query.where(among(AtlasConcept.id, map(code_id, paths))))
        return {
            id.removeprefix("code:"): FileNames(_top_names(defs), refs or {})
            for id, defs, refs in in_slices(rows)
        }

    @cached_property
    def all_names(self) -> dict[str, FileNames]:
        """What all files of languages whose imports name packages define and use."""
        return self.names_of([path for path, file in self.files.items() if file.language in OF_PACKAGES])

    def naming(self, names: set[str]) -> set[str]:
        """The files of languages whose imports name packages that use or define one of these names, or import it."""
        query = self._query(AtlasConcept.id).where(
            CodeFacts.language.in_(OF_PACKAGES), CodeFacts.names.overlap(list(names))
        )
        found = {id.removeprefix("code:") for id in db.session.scalars(query)}
        return found | {
            path
            for path, file in self.files.items()
            if file.language == "java"
            and any(not names.isdisjoint(spec.split(".")) for spec, _ in file.imports)
        }

    def _columns(self) -> tuple[Any, ...]:
        return AtlasConcept.id, CodeFacts.language, CodeFacts.package, CodeFacts.imports

    def _files(self, query: Select[Any]) -> dict[str, ReadFile]:
        found = {}
        for id, language, package, imports in in_slices(db.session.execute(query)):
            path = id.removeprefix("code:")
            found[path] = ReadFile(path, language, package, imports)
        return found

    def _query(self, *columns: Any) -> Select[Any]:
        same = and_(
            CodeFacts.sha256 == AtlasConcept.sha256,
            CodeFacts.language == AtlasConcept.details["language"].astext,
        )
        return (
            select(*columns)
            .select_from(AtlasConcept)
            .join(CodeFacts, same)
            .where(
                AtlasConcept.project_id == self._project_id,
                AtlasConcept.layer == "code",
                CodeFacts.account_id == self._account_id,
                CodeFacts.version == PARSER_VERSION,
            )
        )


def package_names(
    account_id: str, keys: Collection[FactKey]
) -> Mapping[FactKey, tuple[str | None, frozenset[str]]]:
    """The package of each of these files, and what it defines for others; nothing of one that is not known any more."""
    query = select(
        *(CodeFacts.sha256, CodeFacts.language, CodeFacts.package),
        *(_HAS_IMPORTS, CodeFacts.facts["defs"]),
    ).where(
        CodeFacts.account_id == account_id,
        CodeFacts.version == PARSER_VERSION,
        among_hashes(CodeFacts.sha256, {sha256 for sha256, _ in keys}),
    )
    return {
        (sha256, language): (package, _top_names(defs) if counts else frozenset())
        for sha256, language, package, counts, defs in db.session.execute(query)
    }


def _top_names(defs: Collection[Any] | None) -> frozenset[str]:
    return frozenset(each[1] for each in defs or () if "." not in each[1])
