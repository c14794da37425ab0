"""Definitions in TypeScript are read, never run; what is not a value is refused with its place."""

from typing import Any

import pytest
from flask.testing import FlaskClient

from models.store.publishing.typescript_reader import TypeScriptProblem, read

VALUES: list[tuple[str, Any]] = [
    ("export default { id: 'a', 'b-c': \"d\", 5: [1, -2.5, 0xff, 1_000, 1e3,], } satisfies AgentDefinition",
     {"id": "a", "b-c": "d", "5": [1, -2.5, 255, 1000, 1000]}),
    ("const model = 'm' as const\nexport const d: D = { model, t: true, f: false, n: null, u: undefined }\nexport default d",
     {"model": "m", "t": True, "f": False, "n": None}),
    ("export default ({ a: `x\\`${''}`, }) as D".replace("${''}", "\\${y}\r\nz"), {"a": "x`${y}\nz"}),
    (r"export default { a: '\u{1F600}\ud83d\ude00\x41\n\'\q\
end' }", {"a": "😀😀A\n'qend"}),
    ("// export default 1\n/* { */ export default [] // }", []),
    ("import x from 'y'\nexport default { s: '__proto__ constructor', __proto__: {} }",
     {"s": "__proto__ constructor", "__proto__": {}}),
    ("export default { handleSteps: 'function* () {}' }", {"handleSteps": "function* () {}"}),
    ("export default { handleSteps: function* (c: C): G<S> { const a = c!.x as T; yield <S>a } }",
     {"handleSteps": "function* handleSteps(c) { const a = c.x; yield a }"}),
    ("function* steps({ prompt }: C, n?: number) { type T = 1; let x!: T; f<T>(x satisfies T) }\n"
     "export default { handleSteps: steps }",
     {"handleSteps": "function* handleSteps({ prompt }, n) {  let x; f(x) }"}),
]  # fmt: skip
PROBLEMS = [
    ("export default {\n  a: 1,\n  é: f(),\n}", 3, 6, "A call"),
    ("export default { a: 'b' + c }", 1, 21, "An operator"),
    ("export default { a: `é${b}` }", 1, 23, "${}"),
    ("export default { ...a }", 1, 18, "A spread"),
    ("export default { [a]: 1 }", 1, 18, "A computed key"),
    ("export default { a: process.env.KEY }", 1, 21, "A property"),
    ("export default { a() { return 1 } }", 1, 18, "A method"),
    ("export default { a: () => 1 }", 1, 21, "A function"),
    ("export default { a: new Date() }", 1, 21, "new"),
    ("export default { a: /x/ }", 1, 21, "A regular expression"),
    ("import { a } from './b'\nexport default { a }", 2, 18, "imported"),
    ("export default { a: b }", 1, 21, "not a constant"),
    ("const a = [b], b = [a]\nexport default a", 1, 21, "refers to itself"),
    ("export default { a: 1n }", 1, 21, "number"),
    ("export default { a: 1e999 }", 1, 21, "number"),
    ("export default { a: 010 }", 1, 21, "number"),
    ("export default { handleSteps: () => 1 }", 1, 31, "generator function"),
    ("export default { async *handleSteps() {} }", 1, 18, "generator function"),
    ("export default { *handleSteps() { enum A { b } } }", 1, 35, "An enum"),
    ("export default { a: 1 b: 2 }", 1, 23, "not TypeScript"),
    ("export default { a: 'b", 1, 1, "not closed"),
    ("export default function () {}", 1, 16, "A function"),
    ("const a = 1", 1, 1, "no default export"),
    ("", 1, 1, "no default export"),
    ("export default " + "[" * 70 + "]" * 70, 1, 81, "nested"),
    ("".join(f"const a{i} = [a{i + 1}, a{i + 1}]\n" for i in range(30)) + "const a30 = 1\nexport default a0", None, None, "values"),
    ("export default { *handleSteps() { return " + "(" * 2000 + ")" * 2000 + "} }", None, None, "not TypeScript"),
    ("export default { *handleSteps() { return " + "!" * 2000 + "1 } }", None, None, "nesting"),
    ("x" * 1_000_001, 1, 1, "limit"),
]  # fmt: skip


@pytest.mark.parametrize(("source", "value"), VALUES, ids=range(len(VALUES)))
def test_values_are_read(source: str, value: Any) -> None:
    assert read(source) == value


@pytest.mark.parametrize(("source", "line", "column", "said"), PROBLEMS, ids=[p[0][:30] for p in PROBLEMS])
def test_what_is_not_a_value_is_refused_with_its_place(
    source: str, line: int | None, column: int | None, said: str
) -> None:
    with pytest.raises(TypeScriptProblem) as problem:
        read(source)
    assert said in str(problem.value)
    if line:
        assert (problem.value.line, problem.value.column) == (line, column)


def test_the_json_route_says_where(client: FlaskClient) -> None:
    route = "/api/agents/definitions"
    answer = client.post(route, json={"source": "export default { id: 'a' }"})
    assert (answer.status_code, answer.json) == (200, {"definition": {"id": "a"}})
    answer = client.post(route, json={"source": "export default {\n  id: f() }"})
    assert answer.status_code == 400
    assert answer.json == {
        "error": "Line 2, column 7: A call cannot be read without running it. Write the value itself: “f()”",
        "line": 2,
        "column": 7,
    }
    for body in ({"source": 1}, {}, [], {"source": "\x00"}):
        assert client.post(route, json=body).status_code == 400
