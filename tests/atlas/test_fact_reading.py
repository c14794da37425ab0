"""What is read out of a file in each language, what imports stand for, hostile files, and where a file divides."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import pytest

from models.atlas.fact_reading import MAX_CHUNKS, language_of, read_file
from models.atlas.fact_runner import FactRun, UnreadFile
from models.atlas.import_resolution import FileNames, ImportResolver, ReadFile
from models.atlas.importance import importances
from models.atlas.tree_concepts import is_test, module_of, system_of

PYTHON = '''"""Doc."""
import os, a.b as c
from .x import (y, z as q)  # hi
LIMIT = 3

@deco
def top(a):
    def inner(): pass
    return helper(a).run()

class A:
    def m(self): return top(LIMIT)
    class B:
        def n(self): pass
'''
SCRIPT = """import {a} from "./a.js";
const x = require('./b');
export const go = (n) => run(n);
class P { m() { go(2); new Quay(); import("./lazy") } }
"""
TYPES = """import type {a} from "@/lib/a";
export interface I { x: number }
abstract class Q<T> { private m(): T { return go(2) } }
export { z } from './z';
"""
GO = """package main
import (
  "fmt"
  x "example.com/shop/pkg/cart"
)
type Cart struct { N int }
func (c *Cart) Add(n int) { cart.New(); fmt.Println(Max) }
func main() { run() }
"""
RUST = """use crate::a::{B, c::D};
mod util;
struct S<T>(T);
impl<T> S<T> { pub fn go(&self) { helper(); a::b(); } }
fn main() {}
"""
JAVA = """package com.shop;
import com.shop.cart.Cart;
import com.shop.util.*;
public class Main { private Cart c; Main() {} void go() { c.add(new Item()); } }
"""


@pytest.mark.parametrize(
    ("language", "text", "defined", "imported", "called"),
    [
        ("python", PYTHON, ["LIMIT", "top", "A", "A.m", "A.B", "A.B.n"], ["os", "a.b", ".x|y", ".x|z"], ["helper", "run", "top"]),
        ("javascript", SCRIPT, ["x", "go", "P", "P.m"], ["./a.js", "./b", "./lazy"], ["run", "go", "Quay"]),
        ("typescript", TYPES, ["I", "Q", "Q.m"], ["@/lib/a", "./z"], ["go"]),
        ("tsx", "export function App() { return <Foo b={1}/>; }", ["App"], [], ["Foo"]),
        ("go", GO, ["Cart", "Cart.Add", "main"], ["fmt", "example.com/shop/pkg/cart"], ["New", "run", "Println"]),
        ("rust", RUST, ["S", "S.go", "main"], ["crate::a::B", "crate::a::c::D", "mod::util"], ["helper"]),
        ("java", JAVA, ["Main", "Main.Main", "Main.go"], ["com.shop.cart.Cart", "com.shop.util.*"], ["add", "Item"]),
    ],
)  # fmt: skip
def test_definitions_imports_and_calls_of_each_language(
    language: str, text: str, defined: list[str], imported: list[str], called: list[str]
) -> None:
    facts = read_file(language, text.encode())
    assert [each[1] for each in facts["defs"]] == defined
    assert [each[0] for each in facts["imports"]] == imported
    assert set(called) <= facts["calls"].keys()
    lines = text.split("\n")
    for name, places in facts["refs"].items():
        assert all(name in lines[line - 1] for line in places), "each place that is told has the name"


def resolver(tree: Mapping[str, Any]) -> ImportResolver:
    """Of files with their imports, of which one may be a package, what they define, and what they use."""
    files, names = {}, {}
    for path, (imports, defines, uses) in tree.items():
        package = imports[0] if imports and imports[0].startswith("package ") else ""
        specs: Sequence[tuple[str, int]] = [
            (spec, at) for at, spec in enumerate(imports, 1) if spec != package
        ]
        files[path] = ReadFile(path, language_of(path), package.removeprefix("package ") or None, specs)
        names[path] = FileNames(frozenset(defines), {each: [9] for each in uses})
    return ImportResolver(files, set(tree), lambda paths: names)


@pytest.mark.parametrize(
    ("tree", "path", "targets"),
    [
        ({"src/a/b.py": ([], [], []), "src/a/__init__.py": ([], [], []), "src/c.py": (["a|b", "a.b|x", "os", "a"], [], [])}, "src/c.py", ["src/a/__init__.py", "src/a/b.py"]),
        ({"p/q/r.py": (["..s|t", ".u", ".|v"], [], []), "p/s.py": ([], [], []), "p/q/u.py": ([], [], []), "p/q/v.py": ([], [], [])}, "p/q/r.py", ["p/q/u.py", "p/q/v.py", "p/s.py"]),
        ({"w/i.ts": (["./m", "./n.js", "@/o", "react", "../up"], [], []), "w/m/index.tsx": ([], [], []), "w/n.ts": ([], [], []), "w/src/o.ts": ([], [], []), "up.js": ([], [], [])}, "w/i.ts", ["up.js", "w/m/index.tsx", "w/n.ts", "w/src/o.ts"]),
        ({"go.mod": (["package example.com/s"], [], []), "main.go": (["package main", "example.com/s/cart", "fmt"], [], ["New"]), "cart/a.go": (["package cart"], ["New"], []), "cart/b.go": (["package cart"], ["Old"], []), "help.go": (["package main"], ["New"], [])}, "main.go", ["cart/a.go", "help.go"]),
        ({"src/main.rs": (["mod::util", "crate::a::b::C"], [], []), "src/util.rs": ([], [], []), "src/a/mod.rs": ([], [], []), "src/a/b.rs": ([], [], [])}, "src/main.rs", ["src/a/b.rs", "src/util.rs"]),
        ({"m/A.java": (["package x.y", "x.z.B", "x.w.*"], ["A"], ["B", "D", "E"]), "m/B.java": (["package x.z"], ["B"], []), "m/D.java": (["package x.w"], ["D"], []), "m/F.java": (["package x.w"], ["F"], []), "m/E.java": (["package x.y"], ["E"], [])}, "m/A.java", ["m/B.java", "m/D.java", "m/E.java"]),
    ],
    ids=["python", "python, relative", "scripts", "go", "rust", "java"],
)  # fmt: skip
def test_imports_stand_for_the_files_of_the_project(
    tree: Mapping[str, Any], path: str, targets: list[str]
) -> None:
    assert sorted(resolver(tree).targets(path)) == targets


@pytest.mark.parametrize(
    ("language", "data"),
    [
        ("python", b"(" * 200_000),
        ("javascript", b"[{(" * 60_000),
        ("python", b"\xff\xfe\x00\x01" * 100),
        ("java", b"class A { " * 20_000),
        ("rust", b"use a::{" * 5_000),
        ("go", b""),
        ("typescript", "type \u202e = {}".encode()),
        ("text", b"# a\n" * 50_000),
        ("python", b"x" * 399_999),
    ],
)
def test_hostile_files_are_read_within_limits(language: str, data: bytes) -> None:
    found = FactRun(
        [UnreadFile("hostile", language, data), UnreadFile("good", "python", b"def f(): pass\n")]
    ).results()
    assert found["good"]["defs"] == [["function", "f", 1, 1]]
    assert len(found["hostile"].get("spans", ())) <= MAX_CHUNKS


def test_a_file_that_ends_the_process_costs_only_itself(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    program = tmp_path / "crashing.py"
    program.write_text(
        "import json, os, sys\n"
        "for line in iter(sys.stdin.buffer.readline, b''):\n"
        "    key, _, size = json.loads(line)\n"
        "    if sys.stdin.buffer.read(size) == b'bad': os.abort()\n"
        "    print(json.dumps([key, {'lines': 1, 'parsed': False}]), flush=True)\n"
    )
    monkeypatch.setattr("models.atlas.fact_runner.PROGRAM", program)
    found = FactRun(
        [UnreadFile(str(at), "text", b"bad" if at == 1 else b"good") for at in range(4)]
    ).results()
    assert {key: bool(facts.get("failed")) for key, facts in found.items()} == {
        "0": False,
        "1": True,
        "2": False,
        "3": False,
    }


def test_chunks_are_the_file_in_order_and_begin_at_definitions() -> None:
    body = "".join(f"def f{at}(x):\n" + "    x += 1\n" * 30 + "\n" for at in range(5))
    text = f'"""Doc."""\nimport os\n\n{body}\nclass Long:\n' + "".join(
        f"    def m{at}(self):\n" + "        pass\n" * 40 for at in range(8)
    )
    spans = read_file("python", text.encode())["spans"]
    assert [symbol for _, _, symbol in spans][-1] == "Long.m7"
    assert {f"f{at}" for at in range(5)} <= {symbol for _, _, symbol in spans}
    assert all(before[1] < after[0] for before, after in pairwise(spans))


def test_importance_is_what_most_depends_on() -> None:
    found = importances("abcd", {"a": {"c": 1}, "b": {"c": 1}, "c": {"d": 1}})
    assert found["d"] == 100
    assert found["d"] > found["c"] > found["a"] == found["b"]
    assert importances([], {}) == {}


@pytest.mark.parametrize(
    ("path", "system", "module", "test"),
    [
        ("a.py", "root", "root", False),
        ("src/a.ts", "src", "src", False),
        ("src/u/b.ts", "src", "src/u", False),
        ("src/u/d/c.test.ts", "src", "src/u", True),
        ("tests/x.py", "tests", "tests", True),
        ("pkg/a_test.go", "pkg", "pkg", True),
        ("src/test/java/FooTest.java", "src", "src/test", True),
        ("src/latest.py", "src", "src", False),
    ],
)
def test_places_of_paths(path: str, system: str, module: str, test: bool) -> None:
    assert (system_of(path), module_of(path), is_test(path)) == (system, module, test)
