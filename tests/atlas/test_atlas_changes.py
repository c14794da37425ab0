"""The map after a change is the one that is made of the files from nothing, however files are edited, moved and deleted."""

import random
from collections.abc import Mapping
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session as OrmSession

from models.atlas import (
    AtlasChunk,
    AtlasConcept,
    AtlasDecisionLink,
    AtlasEdge,
    AtlasIndex,
    atlas_indexing,
    index_planning,
    index_project,
)
from models.core.db import now
from models.core.jobs import transaction
from models.index import Chunk
from models.insights import ProjectDecision
from models.ledger import Account
from models.projects import Workspace
from tests.atlas.atlas_rows import SHOP, Shop, indexed, shop_rows
from tests.factories import Person
from tests.projects.project_rows import manifest_of

POLYGLOT = {
    **SHOP,
    "go.mod": "module example.com/pier\n",
    "main.go": 'package main\n\nimport "example.com/pier/cart"\n\nfunc main() {\n\tcart.New()\n\thelp()\n}\n',
    "help.go": "package main\n\nfunc help() {}\n",
    "cart/cart.go": "package cart\n\nfunc New() int { return total() }\n",
    "cart/total.go": "package cart\n\nfunc total() int { return 1 }\n",
    "jvm/A.java": "package x.y;\nimport x.z.B;\nimport x.w.*;\nclass A { B b; D d; E e; }\n",
    "jvm/B.java": "package x.z;\npublic class B {}\n",
    "jvm/D.java": "package x.w;\npublic class D {}\n",
    "jvm/E.java": "package x.y;\nclass E {}\n",
    "core/Cargo.toml": '[package]\nname = "core"\n',
    "core/src/lib.rs": "mod deep;\nuse crate::deep::thing::Thing;\n",
    "core/src/deep/mod.rs": "pub mod thing;\n",
    "core/src/deep/thing.rs": "pub struct Thing;\n",
    "pkg/ui/package.json": "{}",
    "pkg/ui/src/index.ts": "export const ui = 1;\n",
    "pkg/app/src/main.ts": "import { ui } from '@pier/ui';\nimport './page';\n",
    "pkg/app/src/page.tsx": "export const Page = 1;\n",
}
NAMES = (
    "money",
    "basket",
    "cart",
    "index",
    "__init__",
    "price",
    "deep",
    "thing",
    "mod",
    "page",
    "help",
    "B",
    "D",
)
FOLDERS = (
    "",
    "shop",
    "shop/cart",
    "cart",
    "web/src",
    "core/src",
    "core/src/deep",
    "pkg/app/src",
    "jvm",
    "new/place",
)
LINES = {
    ".py": ("from shop.money import CENTS", "from . import basket", "import cart.total", "from ..money import to_cents", "import shop", "from shop.cart import *", "X = 1", "def to_cents():\n    pass"),
    ".ts": ("import './price';", "import { a } from '../cart';", "import '@pier/ui';", "import './page.js';", "export const z = 1;"),
    ".go": ("func help() {}", "func New() int { return 2 }", 'import "example.com/pier/shop"', "func total() int { return 3 }", "var x = help"),
    ".java": ("import x.z.B;", "import x.w.*;", "class B {}", "class D { E e; }", "package x.w;"),
    ".rs": ("mod thing;", "use crate::deep;", "use super::thing::Thing;", "pub struct Thing;", "use core::deep::thing;"),
    ".md": ("# Heading", "words"),
}  # fmt: skip
CONTENT = {".go": "package cart\n", ".java": "package x.z;\n"}


def store(session: OrmSession, account_id: str, shop: Shop, files: Mapping[str, str]) -> None:
    """Make these the files of the main workspace."""
    session.get_one(Workspace, shop.workspace).current_manifest_hash = manifest_of(account_id, dict(files))
    session.commit()


def rows(session: OrmSession, project: str) -> dict[str, list[tuple[Any, ...]]]:
    """All that the map holds, without times and numbers of chunks."""
    source = session.get_one(AtlasIndex, project).source_id
    columns = {
        "concepts": (AtlasConcept.id, AtlasConcept.name, AtlasConcept.layer, AtlasConcept.type, AtlasConcept.description, AtlasConcept.sha256, AtlasConcept.importance, AtlasConcept.details),
        "edges": (AtlasEdge.id, AtlasEdge.from_concept_id, AtlasEdge.to_concept_id, AtlasEdge.type, AtlasEdge.weight, AtlasEdge.evidence),
        "links": (AtlasDecisionLink.decision_id, AtlasDecisionLink.concept_id),
    }  # fmt: skip
    found = {
        name: sorted(
            map(tuple, session.execute(select(*each).where(each[0].class_.project_id == project))), key=str
        )
        for name, each in columns.items()
    }
    chunks = (
        select(AtlasChunk.concept_id, AtlasChunk.symbol, AtlasChunk.source_hash, Chunk.text)
        .join(Chunk, Chunk.seq == AtlasChunk.seq)
        .where(AtlasChunk.project_id == project, Chunk.source_id == source)
    )
    return {**found, "chunks": sorted(map(tuple, session.execute(chunks)), key=str)}


def changed(chance: random.Random, files: Mapping[str, str]) -> dict[str, str]:
    """The files after one to four edits, moves, deletions and new files."""
    found = dict(files)
    for _ in range(chance.randint(1, 4)):
        ending = chance.choice(list(LINES))
        path = chance.choice(sorted(found))
        place = f"{chance.choice(FOLDERS)}/{chance.choice(NAMES)}{ending}".lstrip("/")
        match chance.randrange(7):
            case 0 | 1:
                own = next((each for each in LINES if path.endswith(each)), ".md")
                found[path] += f"{chance.choice(LINES[own])}\n"
            case 2:
                found[path] = chance.choice(("", "x\0y", "# only words\n"))
            case 3 if len(found) > 5:
                del found[path]
            case 4:
                found[place] = found.pop(path)
            case 5:
                found = {
                    name.replace("shop/", "store/", 1) if chance.random() < 0.5 else name: each
                    for name, each in found.items()
                }
            case _:
                found[place] = CONTENT.get(ending, "") + "\n".join(chance.choices(LINES[ending], k=3)) + "\n"
    return found


@pytest.fixture
def shop(session: OrmSession, alice: Person) -> Shop:
    found = shop_rows(alice.id, Account(user_id=alice.id), POLYGLOT)
    decision = {"decision_key": "k", "state": "accepted", "found_by": "person", "decided_at": now()}
    text = {
        "decision": "Money is in money.py, and the cart asks B",
        "rationale": "thing.rs and index.ts follow",
    }
    session.add(ProjectDecision(project_id=found.project, **text, **decision))
    indexed(session, found.project)
    return found


@pytest.mark.parametrize("seed", range(4))
def test_a_changed_map_is_the_one_that_is_made_from_nothing(
    session: OrmSession, alice: Person, shop: Shop, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance, files = random.Random(seed), POLYGLOT
    delta = index_planning.tree_delta
    parts: list[Any] = []

    def noted(*args: Any) -> Any:
        parts.append(delta(*args))
        return parts[-1]

    monkeypatch.setattr(index_planning, "tree_delta", noted)
    for step in range(12):
        files = changed(chance, files)
        store(session, alice.id, shop, files)
        index_project(transaction, shop.project)
        part = rows(session, shop.project)
        assert index_project(transaction, shop.project).written == 0
        session.get_one(AtlasIndex, shop.project).version = 0
        session.commit()
        index_project(transaction, shop.project)
        whole = rows(session, shop.project)
        session.rollback()
        for name in part:
            assert part[name] == whole[name], f"{name} after step {step} of {seed}"
    assert sum(each is not None for each in parts) >= 12, "changes were made by parts"


def test_one_changed_file_leaves_the_rest_unread(
    session: OrmSession, alice: Person, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_planning, "tree_entries", lambda *_: pytest.fail("all files were listed"))
    store(session, alice.id, shop, {**POLYGLOT, "shop/money.py": POLYGLOT["shop/money.py"] + "\nX = 1\n"})
    assert 0 < index_project(transaction, shop.project).written < 12


def test_a_file_that_has_no_text_any_more_is_not_found(
    session: OrmSession, alice: Person, shop: Shop
) -> None:
    for text in ("", "\0", "x = 1\n" * 80_000):
        store(session, alice.id, shop, {**POLYGLOT, "shop/money.py": text})
        index_project(transaction, shop.project)
        chunks = [row for row in rows(session, shop.project)["chunks"] if row[0] == "code:shop/money.py"]
        assert chunks == []
        session.rollback()


def test_an_index_that_another_one_overtook_begins_again(
    session: OrmSession, alice: Person, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both planned from the same map; the second may not put its part onto that of the first."""
    plan = atlas_indexing.plan_index
    store(session, alice.id, shop, {**POLYGLOT, "one/new.py": "import shop.money\n"})

    def overtaken(project_id: str, most: int | None, *, whole: bool = False) -> index_planning.IndexPlan:
        found = plan(project_id, most, whole=whole)
        if not whole:
            monkeypatch.setattr(atlas_indexing, "plan_index", plan)
            session.commit()
            index_project(transaction, shop.project)
        return found

    monkeypatch.setattr(atlas_indexing, "plan_index", overtaken)
    index_project(transaction, shop.project)
    part = rows(session, shop.project)
    assert ("module:one", 1) in [(row[0], (row[7] or {}).get("files")) for row in part["concepts"]]
    assert session.get_one(AtlasIndex, shop.project).files == len(POLYGLOT) - 2 + 1
