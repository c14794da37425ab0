"""SQL functions, triggers and views match their files, and migrations replace them exactly."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import ScriptDirectory
from flask import Flask
from sqlalchemy import text
from sqlalchemy.engine import Connection, Engine

from migrations import replacing
from migrations.replacing import replace_function, restore_function, statements
from tests.house.test_migrations import shape

MIGRATIONS = Path(replacing.__file__).parent
FILES = sorted((MIGRATIONS / "functions").rglob("*.sql"))
REPLACED = sorted((MIGRATIONS / "replaced").rglob("*.sql"))


def name_of(path: Path) -> str:
    return path.relative_to(MIGRATIONS).as_posix()


@pytest.fixture
def connection(app: Flask, engine: Engine) -> Iterator[Connection]:
    """A connection that is rolled back after the test."""
    with engine.connect() as connection:
        yield connection
        connection.rollback()


def run(connection: Connection, sql: str) -> None:
    connection.exec_driver_sql(sql, execution_options={"no_parameters": True})


# --- the files and the catalog ---------------------------------------------------------------------------------------


def test_each_function_trigger_and_view_has_one_file(connection: Connection) -> None:
    found = connection.execute(
        text(
            "SELECT proname, '' FROM pg_proc WHERE pronamespace = current_schema()::regnamespace"
            " UNION ALL SELECT viewname, '' FROM pg_views WHERE schemaname = current_schema()"
            " UNION ALL SELECT tgname, tgrelid::regclass::text FROM pg_trigger WHERE NOT tgisinternal"
        )
    )
    found_names = sorted((name, table) for name, table in found if not name.startswith("procrastinate_"))
    assert found_names == sorted(
        (made.name, made.table) for file in FILES for made in statements(file.read_text())
    )


def test_the_catalog_matches_the_files(connection: Connection) -> None:
    before = shape(connection)
    for file in FILES:
        for statement in statements(file.read_text()):
            if statement.kind == "TRIGGER":
                run(connection, statement.drop)
            run(connection, statement.text)
    assert shape(connection) == before


def test_a_file_contains_the_object_it_is_named_after_and_its_triggers() -> None:
    for file in FILES:
        whole, name = file.read_text(), name_of(file)
        made = statements(whole)
        assert made[0].name == file.stem, name
        triggers = [
            one.kind == "TRIGGER" and f"EXECUTE FUNCTION {file.stem}()" in one.text for one in made[1:]
        ]
        assert all(triggers), name
        others = [one for one in made if one.kind != "TRIGGER"]
        assert all(one.text.startswith(f"CREATE OR REPLACE {one.kind}") for one in others), name
        for one in made:
            whole = whole.replace(one.text, "", 1)
        assert re.sub(r"^--.*", "", whole, flags=re.MULTILINE).strip() == "", name


def test_kept_texts_are_replaced_by_their_revision() -> None:
    script = ScriptDirectory(str(MIGRATIONS))
    for file in REPLACED:
        _, revision, room, _ = file.relative_to(MIGRATIONS).parts
        assert f'"{room}/{file.stem}"' in Path(script.get_revision(revision).path).read_text(), name_of(file)


# --- replacing -------------------------------------------------------------------------------------------------------

ONE = "-- A constant.\nCREATE OR REPLACE FUNCTION {name}({arguments}) RETURNS {type}\nLANGUAGE sql\nRETURN {value};\n"
NOTED = """
CREATE OR REPLACE FUNCTION noted() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    NEW.note := %s;
    RETURN NEW;
END $$;

-- On every change.
CREATE TRIGGER noted BEFORE %s ON "row"
FOR EACH ROW EXECUTE FUNCTION noted();
"""


def one(name: str, value: str, arguments: str = "", type: str = "int") -> str:
    return ONE.format(name=name, value=value, arguments=arguments, type=type)


# The text of each file at each revision, None if absent.
HISTORY: dict[str, dict[str, str | None]] = {
    "a/body": {"1": one("body", "1"), "2": one("body", "2"), "3": one("body", "2"), "4": one("body", "4")},
    "a/signature": {
        "1": one("signature", "1"),
        "2": one("signature", "1"),
        "3": one("signature", "p_x", "p_x int"),
        "4": one("signature", "'x'", type="text"),
    },
    "a/new": {"1": None, "2": one("new", "2"), "3": one("new", "2"), "4": one("new", "2")},
    "a/gone": {"1": one("gone", "1"), "2": one("gone", "1"), "3": None, "4": None},
    "a/again": {"1": one("again", "1"), "2": None, "3": one("again", "3"), "4": None},
    "b/noted": {
        "1": NOTED % ("'%1'", "INSERT"),
        "2": NOTED % ("'%2'", "INSERT"),
        "3": NOTED % ("'%2'", "INSERT OR UPDATE"),
        "4": None,
    },
    "b/seen": {
        "1": "CREATE OR REPLACE VIEW seen AS\nSELECT 1 AS one;\n",
        "2": "CREATE OR REPLACE VIEW seen AS\nSELECT 'two' AS two, 1 AS one;\n",
        "3": None,
        "4": None,
    },
}
REVISIONS = ("1", "2", "3", "4")


def changed(revision: str) -> list[str]:
    before = REVISIONS[REVISIONS.index(revision) - 1] if revision != "1" else ""
    return [name for name, texts in HISTORY.items() if texts[revision] != texts.get(before)]


@pytest.fixture
def migrations_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A migrations directory with that history."""
    (tmp_path / "versions").mkdir()
    for revision in REVISIONS:
        before = str(int(revision) - 1) if revision != "1" else None
        (tmp_path / "versions" / f"{revision}.py").write_text(
            f"revision, down_revision = {revision!r}, {before!r}"
        )
        for name in changed(revision):
            texts = [HISTORY[name].get(str(number)) for number in range(int(revision))]
            if any(texts):
                path = tmp_path / "replaced" / revision / f"{name}.sql"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(texts[-1] or "")
    for name, by_revision in HISTORY.items():
        if latest := by_revision["4"]:
            file = tmp_path / "functions" / f"{name}.sql"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(latest)
    monkeypatch.setattr(replacing, "HERE", tmp_path)
    return tmp_path


def made(connection: Connection, schema: str) -> None:
    run(connection, f"CREATE SCHEMA {schema}; SET LOCAL search_path = {schema}")
    run(connection, 'CREATE TABLE "row" (note text)')


def catalog(connection: Connection) -> str:
    return "\n".join(map(str, shape(connection)))


@pytest.fixture
def expected(connection: Connection) -> dict[str, str]:
    """The catalog at each revision, created directly from the texts of that revision."""
    shapes = {}
    for revision in ("0", *REVISIONS):
        made(connection, "house")
        for texts in HISTORY.values():
            run(connection, texts.get(revision) or "")
        shapes[revision] = catalog(connection)
        run(connection, "DROP SCHEMA house CASCADE")
    return shapes


def test_upgrade_and_downgrade_restore_the_texts_of_each_revision(
    connection: Connection, expected: dict[str, str], migrations_dir: Path
) -> None:
    made(connection, "house")
    with Operations.context(MigrationContext.configure(connection)):
        for _ in range(2):
            for revision in REVISIONS:
                for name in changed(revision):
                    replace_function(name, revision)
                assert catalog(connection) == expected[revision], revision
            for revision in reversed(REVISIONS):
                for name in reversed(changed(revision)):
                    restore_function(name, revision)
                assert catalog(connection) == expected[str(int(revision) - 1)], revision


def test_replacing_a_function_keeps_its_trigger(connection: Connection, migrations_dir: Path) -> None:
    def trigger() -> int:
        return int(
            connection.execute(
                text("SELECT oid FROM pg_trigger WHERE tgrelid = '\"row\"'::regclass")
            ).scalar_one()
        )

    made(connection, "house")
    with Operations.context(MigrationContext.configure(connection)):
        replace_function("b/noted", "1")
        first = trigger()
        replace_function("b/noted", "2")
        assert trigger() == first
        assert (
            connection.execute(text('INSERT INTO "row" DEFAULT VALUES RETURNING note')).scalar_one() == "%2"
        )
        replace_function("b/noted", "3")
        assert trigger() != first


def test_an_unknown_name_raises(connection: Connection, migrations_dir: Path) -> None:
    with pytest.raises(LookupError):
        replace_function("a/boddy", "2")
