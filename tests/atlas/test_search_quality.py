"""The search of maps finds what people ask for in a real code base: better than a search for text does, and well enough."""

import pytest
from flask import Flask
from sqlalchemy.orm import Session as OrmSession

from bench.atlas_queries import judged, mean_ndcg, ndcg, plain_search, sources
from models.atlas import search_atlas
from models.ledger import Account
from tests.atlas.atlas_rows import indexed, shop_rows
from tests.factories import Person

LEAST = 0.80
"""The goal of the design; ranking by words alone reaches 0.68 on sets of this kind."""


def test_every_judged_file_is_there() -> None:
    files = sources()
    assert {path for gains in judged().values() for path in gains} <= files.keys()
    assert 50 <= len(files) <= 100
    assert len(judged()) >= 40


@pytest.mark.parametrize(
    ("found", "expected"),
    [(["a", "b"], 1.0), (["b", "a"], 0.8), ([], 0.0), (["x"] * 10 + ["a"], 0.0), (["a"], 0.83)],
)
def test_gains_count_less_the_later_they_come(found: list[str], expected: float) -> None:
    assert ndcg(found, {"a": 3, "b": 1}) == pytest.approx(expected, abs=0.01)


def test_the_search_beats_a_search_for_text(app: Flask, session: OrmSession, alice: Person) -> None:
    files = sources()
    project = indexed(session, shop_rows(alice.id, Account(user_id=alice.id), files).project)
    ours = mean_ndcg(lambda query: [hit.path or "" for hit in search_atlas(project, query, 10)])
    plain = mean_ndcg(lambda query: plain_search(files, query))
    assert ours >= LEAST, f"{ours:.3f}"
    assert ours > plain + 0.1, f"{ours:.3f}, text {plain:.3f}"
