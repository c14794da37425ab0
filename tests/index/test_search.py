"""Documents are found by their words, and say on which page or lines."""

from sqlalchemy.orm import Session as OrmSession

from models import index
from models.index import IndexScope
from tests.factories import Person
from tests.index.conftest import Upload, pdf


def scope(alice: Person) -> IndexScope:
    return IndexScope(alice.id, "account", alice.id)


def test_a_pdf_is_found_by_its_page(upload: Upload, alice: Person, session: OrmSession) -> None:
    document = upload(
        "pipes.pdf", pdf("Water pipes are made of copper.", "The committee meets on Tuesday.", "")
    )
    session.expire_all()
    assert document.state == "ready", document.report
    answer = index.search([scope(alice)], "When does the committee meet?")
    assert [(hit.name, hit.unit, hit.first) for hit in answer.hits] == [("pipes.pdf", "page", 2)]
    assert document.report["notes"] == ["Page 3 is a picture: no text."]
