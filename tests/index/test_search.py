"""Documents are found by their words and by near ones, within their scope; what is not there is not found."""

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session as OrmSession

from models import index
from models.index import IndexScope, chunk_ranking, vectors
from models.index.embedders import HashingEmbedder
from models.index.terms import query_terms, words
from models.index.vectors import near_chunks
from tests.factories import Person
from tests.index.conftest import Upload

pytestmark = pytest.mark.usefixtures("no_process")

FILLER = "The harbour has seven cranes and a customs office. Ships from Oslo unload timber and fish every morning.\n"


@pytest.fixture
def scope(alice: Person) -> IndexScope:
    return IndexScope(alice.id, "account", alice.id)


def names(answer: index.SearchAnswer) -> list[str]:
    return [hit.name for hit in answer.hits]


def test_a_page_is_found_by_its_words(upload: Upload, scope: IndexScope, session: OrmSession) -> None:
    upload("pipes.txt", "Water pipes are made of copper.\fThe committee meets on Tuesday.\f" + FILLER)
    answer = index.search([scope], "When does the committee meet?")
    assert [(hit.name, hit.unit, hit.first, hit.last) for hit in answer.hits[:1]] == [
        ("pipes.txt", "page", 2, 2)
    ]
    assert answer.hits[0].text == "The committee meets on Tuesday."
    assert answer.hits[0].passage.startswith("Water pipes")


def test_each_document_is_shown_once_before_any_is_shown_twice(
    upload: Upload, scope: IndexScope, session: OrmSession
) -> None:
    upload("many.txt", "\f".join(("copper copper pipes copper", FILLER, FILLER) * 5))
    upload("one.txt", f"{FILLER} a pipe of copper for the cranes")
    answer = index.search([scope], "copper pipes", 4)
    assert names(answer)[:2] == ["many.txt", "one.txt"]
    assert names(answer)[2:] == ["many.txt", "many.txt"]


def test_neighbours_are_one_passage(upload: Upload, scope: IndexScope, session: OrmSession) -> None:
    upload("a.txt", "\f".join((FILLER, "copper one", "copper two", "copper three", FILLER)))
    answer = index.search([scope], "copper", 10)
    assert len(answer.hits) == 2
    assert answer.hits[0].passage.endswith("copper one\ncopper two")
    assert answer.hits[1].passage.startswith("copper three")


@pytest.mark.parametrize(
    "query", ["quantum chromodynamics", "what is the", "zzzz", "Wie hoch ist die Miete?"]
)
def test_what_is_not_there_is_not_found(
    upload: Upload, scope: IndexScope, session: OrmSession, query: str
) -> None:
    upload("a.txt", FILLER * 20)
    answer = index.search([scope], query)
    assert answer.nothing_found
    assert answer.hits == []


def test_a_question_with_one_known_word_of_many_finds_nothing(
    upload: Upload, scope: IndexScope, session: OrmSession
) -> None:
    upload("a.txt", FILLER * 3)
    assert index.search([scope], "salary of the treasurer in seven provinces of Bolivia").nothing_found


def test_nothing_is_found_without_documents_scopes_or_words(
    upload: Upload, scope: IndexScope, session: OrmSession
) -> None:
    assert index.search([scope], "copper").nothing_found
    upload("a.txt", "copper")
    assert index.search([], "copper").nothing_found
    assert index.search([scope], "").nothing_found
    assert index.search([scope], "?!").nothing_found


def test_search_stays_in_its_scopes(
    upload: Upload, alice: Person, bob: Person, scope: IndexScope, session: OrmSession
) -> None:
    upload("account.txt", "copper of the account")
    upload("thread.txt", "copper of the thread", kind="thread", scope="t1")
    upload("other.txt", "copper of another thread", kind="thread", scope="t2")
    upload("bob.txt", "copper of bob", account=bob.id, scope=bob.id)
    thread = IndexScope(alice.id, "thread", "t1")
    assert names(index.search([scope], "copper")) == ["account.txt"]
    assert names(index.search([thread], "copper")) == ["thread.txt"]
    assert set(names(index.search([scope, thread], "copper"))) == {"account.txt", "thread.txt"}
    assert index.search([IndexScope(bob.id, "thread", "t1")], "copper").nothing_found
    assert index.search([IndexScope(bob.id, "account", alice.id)], "copper").nothing_found


def test_a_deleted_document_is_not_found(upload: Upload, scope: IndexScope, session: OrmSession) -> None:
    document = upload("a.txt", "copper pipes")
    assert names(index.search([scope], "copper")) == ["a.txt"]
    index.delete_document(document)
    assert index.search([scope], "copper").nothing_found


def test_a_name_counts(upload: Upload, scope: IndexScope, session: OrmSession) -> None:
    upload("a.txt", f"budget of the harbour {FILLER}")
    upload("budget.txt", f"{FILLER} budget of the harbour")
    assert names(index.search([scope], "budget of the harbour"))[0] == "budget.txt"


@pytest.mark.parametrize(
    ("query", "document"),
    [
        ("invoice", "All invoices are sent by post."),
        ("recieve parcels", "You receive the parcel on Monday."),
        ("Rechnung", "Die Rechnungsnummer steht oben."),
        ("parse the request", "def parse_request(body): ..."),
        ("東京", "株式会社は東京都にある。"),
        ("getUserName", "get_user_name returns the user name"),
    ],
)
def test_other_forms_of_words_are_found(
    upload: Upload, scope: IndexScope, session: OrmSession, query: str, document: str
) -> None:
    upload("other.txt", FILLER)
    upload("wanted.txt", document)
    assert names(index.search([scope], query))[:1] == ["wanted.txt"]


def test_a_frequent_word_alone_and_with_another(
    upload: Upload, scope: IndexScope, session: OrmSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunk_ranking, "CANDIDATES", 3)
    upload("many.txt", "\f".join(f"copper {number} anchor" for number in range(9)))
    upload("rare.txt", "copper and zinc")
    assert index.search([scope], "copper").hits
    assert names(index.search([scope], "copper zinc"))[0] == "rare.txt"
    assert index.search([scope], "copper anchor").hits


def test_a_filtered_approximate_search_finds_the_whole_scope(
    upload: Upload, alice: Person, session: OrmSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the iterative scan, the index returns its nearest 40, nearly all of another scope."""
    if vectors.vector_schema() is None:
        pytest.skip("PostgreSQL has no pgvector")
    monkeypatch.setattr(vectors, "EXACT_CHUNKS", 0)
    upload(
        "big.txt",
        "\f".join(f"copper pipe number {number}" for number in range(600)),
        kind="thread",
        scope="big",
    )
    small = upload(
        "small.txt", "\f".join(f"pipe of zinc {number}" for number in range(20)), kind="thread", scope="s"
    )
    session.refresh(small)
    session.execute(text("SET LOCAL enable_seqscan = off"))
    session.execute(text("SET LOCAL enable_bitmapscan = off"))
    vector = HashingEmbedder().query("copper pipe", lambda term: 1.0)
    assert small.source_id is not None
    found = near_chunks([small.source_id], 20, vector, 15)
    assert len(found) == 15
    assert {chunk.source_id for chunk in found} == {small.source_id}
    assert [chunk.cosine for chunk in found] == sorted((chunk.cosine for chunk in found), reverse=True)


def test_an_exact_search_never_takes_the_approximate_index(upload: Upload, session: OrmSession) -> None:
    if vectors.vector_schema() is None:
        pytest.skip("PostgreSQL has no pgvector")
    upload("big.txt", "\f".join(f"copper pipe {number}" for number in range(300)), kind="thread", scope="big")
    small = upload("small.txt", "\f".join(f"zinc {number}" for number in range(20)), kind="thread", scope="s")
    session.refresh(small)
    for setting in ("enable_seqscan", "enable_bitmapscan", "enable_sort"):
        session.execute(text(f"SET LOCAL {setting} = off"))
    vector = HashingEmbedder().query("copper pipe", lambda term: 1.0)
    assert small.source_id is not None
    assert len(near_chunks([small.source_id], 20, vector, 50)) == 20


# -- words and vectors ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("Hello, WORLD!", ["hello", "world"]),
        ("parseHTTPRequest", ["parsehttprequest", "parse", "http", "request"]),
        ("snake_case_2", ["snake_case_2", "snake", "case"]),
        ("ﬁle ①", ["file", "1"]),
        ("東京都", ["東京", "京都"]),
        ("Straße", ["strasse"]),
        ("__", []),
        ("it's", ["it", "s"]),
    ],
)
def test_terms(text: str, terms: list[str]) -> None:
    assert words(text) == terms


def test_a_query_of_little_words_keeps_them() -> None:
    assert query_terms("to be or not to be") == ["to", "be", "or", "not"]
    assert query_terms("the copper") == ["copper"]


def test_vectors_are_the_same_in_every_process_and_near_for_near_texts() -> None:
    model = HashingEmbedder()
    one, same, near, far, empty = model.texts(
        ["copper pipes", "copper pipes", "pipe of copper", "harbour", ""]
    )
    assert one == same
    assert [round(value, 4) for value in one if value][:3] == FIRST_VALUES

    def cosine(other: list[float]) -> float:
        return sum(a * b for a, b in zip(one, other, strict=True))

    assert cosine(one) == pytest.approx(1)
    assert cosine(near) > 0.5 > 0.3 > cosine(far)
    assert not any(empty)


FIRST_VALUES = [-0.075, 0.2599, -0.0671]
"""They are stored: a change of the embedder needs another name."""
