"""The map follows the files: concepts and edges of the rules, one changed file read again, nothing written for an unchanged tree."""

import pytest
from sqlalchemy import delete, func, select, text
from sqlalchemy.orm import Session as OrmSession

from models.atlas import (
    AtlasChunk,
    AtlasConcept,
    AtlasDecisionLink,
    AtlasEdge,
    AtlasIndex,
    CodeFacts,
    atlas_counts,
    fact_cache,
    index_project,
)
from models.core import jobs
from models.core.db import extension, now
from models.core.files import files
from models.core.jobs import transaction
from models.index import Chunk, DocumentSource, document_purge
from models.insights import ProjectDecision
from models.ledger import Account
from models.projects import Project
from tests.atlas.atlas_rows import SHOP, Shop, indexed, shop_rows
from tests.factories import Person
from tests.projects.project_rows import caller_of, pushed


@pytest.fixture
def shop(session: OrmSession, alice: Person) -> Shop:
    found = shop_rows(alice.id, Account(user_id=alice.id))
    indexed(session, found.project)
    return found


def edges(session: OrmSession, project: str, type: str) -> dict[tuple[str, str], AtlasEdge]:
    rows = session.scalars(select(AtlasEdge).where(AtlasEdge.project_id == project, AtlasEdge.type == type))
    return {(row.from_concept_id, row.to_concept_id): row for row in rows}


def push(session: OrmSession, alice: Person, shop: Shop, files: dict[str, str], *parents: str) -> str:
    id = pushed(
        caller_of(alice.id, Account(user_id=alice.id)), shop.project, shop.workspace, files, "More", *parents
    )
    session.commit()
    return id


def test_the_concepts_are_those_of_the_rules(session: OrmSession, shop: Shop) -> None:
    rows = {
        row.id: row
        for row in session.scalars(select(AtlasConcept).where(AtlasConcept.project_id == shop.project))
    }
    systems = {id for id, row in rows.items() if row.layer == "system"}
    modules = {id for id, row in rows.items() if row.layer == "module"}
    assert systems == {"system:root", "system:shop", "system:tests", "system:web"}
    assert modules == {"module:root", "module:shop", "module:shop/cart", "module:tests", "module:web/src"}
    assert rows["system:root"].name == "Root"
    assert "code:logo.png" in rows
    assert not any("node_modules" in id or ".github" in id for id in rows)
    assert rows["code:shop/money.py"].importance == 100
    assert rows["code:tests/test_money.py"].type == "test"


def test_imports_are_edges_with_the_line_that_says_so(session: OrmSession, shop: Shop) -> None:
    found = edges(session, shop.project, "depends_on")
    assert {pair for pair in found if pair[0].startswith("code:")} == {
        ("code:shop/app.py", "code:shop/cart/basket.py"),
        ("code:shop/app.py", "code:shop/money.py"),
        ("code:shop/cart/basket.py", "code:shop/money.py"),
        ("code:tests/test_money.py", "code:shop/money.py"),
        ("code:web/src/index.ts", "code:web/src/price.ts"),
    }
    edge = found["code:shop/app.py", "code:shop/money.py"]
    assert (edge.weight, edge.evidence) == (1, [["shop/app.py", 3]])
    modules = {pair for pair in found if pair[0].startswith("module:")}
    assert ("module:shop", "module:shop/cart") in modules
    assert ("module:tests", "module:shop") in modules


def test_an_unchanged_tree_writes_nothing(session: OrmSession, shop: Shop) -> None:
    before = session.scalar(
        select(func.max(AtlasConcept.updated_at)).where(AtlasConcept.project_id == shop.project)
    )
    assert index_project(transaction, shop.project).written == 0
    session.rollback()
    after = session.scalar(
        select(func.max(AtlasConcept.updated_at)).where(AtlasConcept.project_id == shop.project)
    )
    assert before == after


def test_one_changed_file_is_read_again_alone(
    session: OrmSession, alice: Person, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    run = fact_cache.FactRun
    monkeypatch.setattr(
        fact_cache, "FactRun", lambda files: read.extend(each.language for each in files) or run(files)
    )
    changed = SHOP["shop/money.py"] + "\n\ndef to_euros(cents: int) -> float:\n    return cents / CENTS\n"
    push(session, alice, shop, {**SHOP, "shop/money.py": changed}, shop.snapshot)
    counts = index_project(transaction, shop.project)
    assert read == ["python"]
    assert counts.unread == 0
    symbols = session.scalars(
        select(AtlasChunk.symbol).where(
            AtlasChunk.project_id == shop.project, AtlasChunk.file_path == "shop/money.py"
        )
    ).all()
    assert "to_euros" in symbols


def test_what_is_gone_leaves_the_map(session: OrmSession, alice: Person, shop: Shop) -> None:
    push(
        session,
        alice,
        shop,
        {path: text for path, text in SHOP.items() if not path.startswith("web")},
        shop.snapshot,
    )
    index_project(transaction, shop.project)
    rows = session.scalars(select(AtlasConcept.id).where(AtlasConcept.project_id == shop.project)).all()
    assert not any("web" in id for id in rows)
    assert not any("web" in pair[0] for pair in edges(session, shop.project, "contains"))


def test_two_projects_with_the_same_folders_do_not_clash(
    session: OrmSession, alice: Person, shop: Shop
) -> None:
    other = shop_rows(alice.id, Account(user_id=alice.id))
    session.commit()
    facts = session.scalar(select(func.count()).select_from(CodeFacts))
    counts = index_project(transaction, other.project)
    assert counts.concepts == index_project(transaction, shop.project).concepts
    assert session.scalar(select(func.count()).select_from(CodeFacts)) == facts, (
        "files of one account are read once"
    )


def test_at_most_so_many_new_files_are_read_in_one_call(session: OrmSession, alice: Person) -> None:
    shop = shop_rows(alice.id, Account(user_id=alice.id))
    session.commit()
    counts = index_project(transaction, shop.project, 3)
    assert counts.unread == 5
    assert counts.concepts > 10, "the parts of the map follow from paths"
    assert index_project(transaction, shop.project).unread == 0
    assert index_project(transaction, shop.project).written == 0


def test_files_that_snapshots_change_together_relate(session: OrmSession, alice: Person, shop: Shop) -> None:
    parent, files = shop.snapshot, dict(SHOP)
    for number in range(2):
        files |= {path: f"{files[path]}# {number}\n" for path in ("shop/money.py", "shop/cart/basket.py")}
        parent = push(session, alice, shop, files, parent)
    index_project(transaction, shop.project)
    found = edges(session, shop.project, "relates")
    assert found["code:shop/cart/basket.py", "code:shop/money.py"].weight == 2
    assert found["module:shop", "module:shop/cart"].weight == 2


def test_moves_of_main_enqueue_one_job_that_indexes(session: OrmSession, alice: Person) -> None:
    shop = shop_rows(alice.id, Account(user_id=alice.id))
    push(session, alice, shop, {**SHOP, "more.md": "More"}, shop.snapshot)
    waiting = text("SELECT count(*) FROM procrastinate_jobs WHERE task_name = 'atlas.index' AND lock = :lock")
    assert session.scalar(waiting, {"lock": f"atlas {shop.project}"}) == 1
    session.commit()
    jobs.index_atlas(shop.project)
    assert session.get_one(AtlasIndex, shop.project).files == len(SHOP) - 1
    counts = atlas_counts(shop.project)
    assert counts.embeddings in (0, counts.chunks), "all have vectors where the database can store them"


def test_a_deleted_project_leaves_no_chunks(session: OrmSession, shop: Shop) -> None:
    source = session.get_one(AtlasIndex, shop.project).source_id
    session.execute(delete(Project).where(Project.id == shop.project))
    session.commit()
    assert session.get(DocumentSource, source) is None
    assert session.scalar(select(func.count()).select_from(Chunk).where(Chunk.source_id == source)) == 0


def test_the_purge_of_documents_keeps_the_map(session: OrmSession, shop: Shop) -> None:
    document_purge.purge_documents(transaction, files(extension("settings")), now())
    session.expire_all()
    assert session.get(AtlasIndex, shop.project) is not None


def test_decisions_are_concepts_that_link_to_what_they_name(session: OrmSession, shop: Shop) -> None:
    decision = ProjectDecision(
        project_id=shop.project,
        decision="Amounts are whole cents",
        decision_key="amounts are whole cents",
        rationale="money.py rounds once",
        state="accepted",
        found_by="person",
        decided_at=now(),
    )
    session.add(decision)
    session.commit()
    assert index_project(transaction, shop.project).written > 0
    links = session.scalars(
        select(AtlasDecisionLink).where(AtlasDecisionLink.project_id == shop.project)
    ).all()
    assert [(each.concept_id, each.confidence) for each in links] == [("code:shop/money.py", 70)]
    assert session.get(AtlasConcept, (shop.project, f"narrative:decision:{decision.id}")) is not None
    assert index_project(transaction, shop.project).written == 0
    decision.state = "rejected"
    session.commit()
    index_project(transaction, shop.project)
    assert session.scalar(select(func.count()).select_from(AtlasDecisionLink)) == 0
