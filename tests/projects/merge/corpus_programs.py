"""Merges of programs by structure, and warnings of those that look wrong."""

from models.projects.merge import MergeLabel, MergeReason, WarningKind
from tests.projects.merge.merge_case import MergeCase, one_file

Label, Reason, Warn = MergeLabel, MergeReason, WarningKind

MODULE = """\
    import os
    import re


    def first(a):
        return a


    def last(z):
        return z
    """

PYTHON = [
    one_file(
        "both add a function at the end",
        "a.py",
        MODULE,
        MODULE + "\n\n    def mine():\n        return 1\n",
        MODULE + "\n\n    def theirs():\n        return 2\n",
        MODULE + "\n\n    def mine():\n        return 1\n\n\n    def theirs():\n        return 2\n",
        Label.STRUCTURE,
    ),
    one_file(
        "both add the same function differently",
        "a.py",
        MODULE,
        MODULE + "\n\n    def mine():\n        return 1\n",
        MODULE + "\n\n    def mine():\n        return 2\n",
        reason=Reason.SAME_PLACE,
    ),
    one_file(
        "both add an import and a function",
        "a.py",
        MODULE,
        MODULE.replace("import re", "import re\n    import sys")
        + "\n\n    def mine():\n        return sys\n",
        MODULE.replace("import re", "import re\n    import json")
        + "\n\n    def theirs():\n        return json\n",
        MODULE.replace("import re", "import re\n    import json\n    import sys")
        + "\n\n    def mine():\n        return sys\n\n\n    def theirs():\n        return json\n",
        Label.STRUCTURE,
    ),
    one_file(
        "both import another name of one module",
        "a.py",
        "from os import path\n\nprint(path)\n",
        "from os import path, sep\n\nprint(path)\n",
        "from os import path, curdir\n\nprint(path)\n",
        "from os import path, curdir, sep\n\nprint(path)\n",
        Label.STRUCTURE,
    ),
    one_file(
        "both import another name in brackets",
        "a.py",
        "from os import (\n    path,\n)\n",
        "from os import (\n    path,\n    sep,\n)\n",
        "from os import (\n    curdir,\n    path,\n    altsep,\n)\n",
        "from os import (\n    curdir,\n    path,\n    altsep,\n    sep,\n)\n",
        Label.STRUCTURE,
    ),
    one_file(
        "one sorts the imports, the other adds one",
        "a.py",
        "import sys\nimport os\nimport re\n\nprint(os, re, sys)\n",
        "import os\nimport re\nimport sys\n\nprint(os, re, sys)\n",
        "import sys\nimport os\nimport json\nimport re\n\nprint(os, re, sys)\n",
        "import os\nimport json\nimport re\nimport sys\n\nprint(os, re, sys)\n",
    ),
    one_file(
        "both edit one function, in lines apart",
        "a.py",
        "def f():\n    a = 1\n    b = 2\n    c = 3\n    return a, b, c\n",
        "def f():\n    a = 10\n    b = 2\n    c = 3\n    return a, b, c\n",
        "def f():\n    a = 1\n    b = 2\n    c = 30\n    return a, b, c\n",
        "def f():\n    a = 10\n    b = 2\n    c = 30\n    return a, b, c\n",
        Label.LINES,
    ),
    one_file(
        "both edit one line of a function",
        "a.py",
        "def f():\n    return 1\n",
        "def f():\n    return 2\n",
        "def f():\n    return 3\n",
        reason=Reason.SAME_PLACE,
    ),
    one_file(
        "neighbouring functions",
        "a.py",
        "def f():\n    return 1\ndef g():\n    return 2\n",
        "def f():\n    return 10\ndef g():\n    return 2\n",
        "def f():\n    return 1\ndef g(x):\n    return 20\n",
        "def f():\n    return 10\ndef g(x):\n    return 20\n",
        Label.STRUCTURE,
    ),
    one_file(
        "one reorders functions, the other edits one",
        "a.py",
        "def f():\n    return 1\n\n\ndef g():\n    return 2\n\n\ndef h():\n    return 3\n",
        "def h():\n    return 3\n\n\ndef f():\n    return 1\n\n\ndef g():\n    return 2\n",
        "def f():\n    return 1\n\n\ndef g():\n    return 2\n\n\ndef h():\n    return 30\n",
        "def h():\n    return 30\n\n\ndef f():\n    return 1\n\n\ndef g():\n    return 2\n",
        Label.STRUCTURE,
    ),
    one_file(
        "one deletes a function that the other edits",
        "a.py",
        MODULE,
        MODULE.replace("    def first(a):\n        return a\n\n\n", ""),
        MODULE.replace("return a\n", "return a + 1\n"),
        reason=Reason.SAME_PLACE,
    ),
    one_file(
        "both add methods to a class",
        "a.py",
        "class A:\n    def f(self):\n        return 1\n",
        "class A:\n    def f(self):\n        return 1\n\n    def g(self):\n        return 2\n",
        "class A:\n    def f(self):\n        return 1\n\n    def h(self):\n        return 3\n",
        "class A:\n    def f(self):\n        return 1\n\n    def g(self):\n        return 2\n\n    def h(self):\n        return 3\n",
        Label.STRUCTURE,
    ),
    one_file(
        "a property and its setter are edited",
        "a.py",
        "class A:\n    @property\n    def x(self):\n        return 1\n    @x.setter\n    def x(self, v):\n        self.v = v\n",
        "class A:\n    @property\n    def x(self):\n        return 10\n    @x.setter\n    def x(self, v):\n        self.v = v\n",
        "class A:\n    @property\n    def x(self):\n        return 1\n    @x.setter\n    def x(self, value):\n        self.v = value\n",
        "class A:\n    @property\n    def x(self):\n        return 10\n    @x.setter\n    def x(self, value):\n        self.v = value\n",
    ),
    one_file(
        "both add statements where order matters",
        "a.py",
        "import app\n\napp.start()\n",
        "import app\n\napp.start()\napp.load()\n",
        "import app\n\napp.start()\napp.check()\n",
        reason=Reason.SAME_PLACE,
    ),
    one_file(
        "both add constants, one of them of the other's name",
        "a.py",
        "A = 1\n",
        "A = 1\nB = 2\n",
        "A = 1\nC = [B for B in (A,)]\n",
        reason=Reason.SAME_PLACE,
    ),
    one_file(
        "both add constants",
        "a.py",
        "A = 1\n",
        "A = 1\nB = 2\n",
        "A = 1\nC = 3\n",
        "A = 1\nB = 2\nC = 3\n",
        Label.STRUCTURE,
    ),
    one_file(
        "both add fields to a dataclass, whose order is that of its parameters",
        "a.py",
        "@dataclass\nclass A:\n    a: int = 0\n",
        "@dataclass\nclass A:\n    a: int = 0\n    b: int = 0\n",
        "@dataclass\nclass A:\n    a: int = 0\n    c: int = 0\n",
        reason=Reason.SAME_PLACE,
    ),
    one_file(
        "one edits a statement that the other deletes",
        "a.py",
        "import app\n\napp.start()\napp.run()\n",
        "import app\n\napp.start(1)\napp.run()\n",
        "import app\n\napp.run()\n",
        reason=Reason.SAME_PLACE,
    ),
    one_file(
        "one edits an import that the other deletes",
        "a.py",
        "import a as b\nimport c\n",
        "import a as d\nimport c\n",
        "import c\n",
        reason=Reason.SAME_PLACE,
    ),
    one_file(
        "one renames an imported name that the other deletes",
        "a.py",
        "from m import a, b\n",
        "from m import c, b\n",
        "from m import b\n",
        reason=Reason.SAME_PLACE,
    ),
    one_file(
        "one renames a function that the other deletes",
        "a.py",
        MODULE,
        MODULE.replace("first", "renamed"),
        MODULE.replace("    def first(a):\n        return a\n\n\n", ""),
        reason=Reason.SAME_PLACE,
    ),
    one_file(
        "one renames a function that the other edits",
        "a.py",
        MODULE,
        MODULE.replace("first", "renamed"),
        MODULE.replace("return a\n", "return a + 1\n"),
        reason=Reason.SAME_PLACE,
    ),
    one_file(
        "one adds a statement beside one that the other deletes",
        "a.py",
        "import app\n\napp.start()\napp.run()\n",
        "import app\n\napp.start()\napp.check()\napp.run()\n",
        "import app\n\napp.run()\n",
        reason=Reason.SAME_PLACE,
    ),
    one_file(
        "comments go with what they stand above",
        "a.py",
        "# About this file.\n\nimport os\n\n\n# one\ndef f():\n    return 1\n",
        "# About this file.\n\nimport os\n\n\n# one\ndef f():\n    return 1\n\n\n# mine\ndef g():\n    return 2\n",
        "# About this file.\n\nimport os\n\n\n# one\ndef f():\n    return 1\n\n\n# theirs\ndef h():\n    return 3\n",
        "# About this file.\n\nimport os\n\n\n# one\ndef f():\n    return 1\n\n\n# mine\ndef g():\n    return 2\n\n\n# theirs\ndef h():\n    return 3\n",
        Label.STRUCTURE,
    ),
    one_file(
        "CRLF stays in a merge by structure",
        "a.py",
        b"A = 1\r\n",
        b"A = 1\r\nB = 2\r\n",
        b"A = 1\r\nC = 3\r\n",
        b"A = 1\r\nB = 2\r\nC = 3\r\n",
        Label.STRUCTURE,
    ),
    one_file(
        "a file with syntax errors merges by lines only",
        "a.py",
        "def (:\nA = 1\n",
        "def (:\nA = 1\nB = 2\n",
        "def (:\nA = 1\nC = 3\n",
        reason=Reason.SAME_PLACE,
    ),
    one_file(
        "lines that merge to a syntax error",
        "a.py",
        "x = [\n    1,\n    2,\n    3,\n    4,\n]\n",
        "x = (\n    1,\n    2,\n    3,\n    4,\n)\n",
        "x = [\n    1,\n    2,\n    3,\n    4,\n    5,\n][0]\ny = [\n    6,\n]\n",
        reason=Reason.SAME_PLACE,
    ),
]

SCRIPTS = [
    one_file(
        "both import another name",
        "a.ts",
        "import { a } from './a';\n\nexport const x = a;\n",
        "import { a, b } from './a';\n\nexport const x = a;\n",
        "import { a, c } from './a';\n\nexport const x = a;\n",
        "import { a, b, c } from './a';\n\nexport const x = a;\n",
        Label.STRUCTURE,
    ),
    one_file(
        "both add an exported function",
        "a.js",
        "export function f() {\n  return 1;\n}\n",
        "export function f() {\n  return 1;\n}\n\nexport function g() {\n  return 2;\n}\n",
        "export function f() {\n  return 1;\n}\n\nexport function h() {\n  return 3;\n}\n",
        "export function f() {\n  return 1;\n}\n\nexport function g() {\n  return 2;\n}\n\nexport function h() {\n  return 3;\n}\n",
        Label.STRUCTURE,
    ),
    one_file(
        "both add a method",
        "a.ts",
        "class A {\n  f(): number {\n    return 1;\n  }\n}\n",
        "class A {\n  f(): number {\n    return 1;\n  }\n\n  g(): number {\n    return 2;\n  }\n}\n",
        "class A {\n  f(): number {\n    return 1;\n  }\n\n  h(): number {\n    return 3;\n  }\n}\n",
        "class A {\n  f(): number {\n    return 1;\n  }\n\n  g(): number {\n    return 2;\n  }\n\n  h(): number {\n    return 3;\n  }\n}\n",
        Label.STRUCTURE,
    ),
    one_file(
        "both add a property to an interface",
        "a.ts",
        "export interface A {\n  a: string;\n}\n",
        "export interface A {\n  a: string;\n  b: number;\n}\n",
        "export interface A {\n  a: string;\n  c?: boolean;\n}\n",
        "export interface A {\n  a: string;\n  b: number;\n  c?: boolean;\n}\n",
        Label.STRUCTURE,
    ),
    one_file(
        "both add a component",
        "a.tsx",
        "export const A = () => <a>1</a>;\n",
        "export const A = () => <a>1</a>;\nexport const B = () => <b>2</b>;\n",
        "export const A = () => <a>1</a>;\nexport const C = () => <i>3</i>;\n",
        "export const A = () => <a>1</a>;\nexport const B = () => <b>2</b>;\nexport const C = () => <i>3</i>;\n",
        Label.STRUCTURE,
    ),
    one_file(
        "both edit one method",
        "a.ts",
        "class A {\n  f() { return 1; }\n}\n",
        "class A {\n  f() { return 2; }\n}\n",
        "class A {\n  f() { return 3; }\n}\n",
        reason=Reason.SAME_PLACE,
    ),
    one_file(
        "both register something, in an order that matters",
        "a.js",
        "app.use(a);\n",
        "app.use(a);\napp.use(b);\n",
        "app.use(a);\napp.use(c);\n",
        reason=Reason.SAME_PLACE,
    ),
]

COMPILED = [
    one_file(
        "Go: both add a function and an import",
        "a.go",
        'package a\n\nimport (\n\t"fmt"\n)\n\nfunc F() { fmt.Println(1) }\n',
        'package a\n\nimport (\n\t"fmt"\n\t"os"\n)\n\nfunc F() { fmt.Println(1) }\n\nfunc G() { os.Exit(1) }\n',
        'package a\n\nimport (\n\t"errors"\n\t"fmt"\n\t"io"\n)\n\nfunc F() { fmt.Println(1) }\n\nfunc H() (io.Reader, error) { return nil, errors.New("h") }\n',
        'package a\n\nimport (\n\t"errors"\n\t"fmt"\n\t"io"\n\t"os"\n)\n\nfunc F() { fmt.Println(1) }\n\nfunc G() { os.Exit(1) }\n\nfunc H() (io.Reader, error) { return nil, errors.New("h") }\n',
        Label.STRUCTURE,
    ),
    one_file(
        "Go: methods of one name of different types",
        "a.go",
        "package a\n\nfunc (a A) S() int { return 1 }\nfunc (b *B) S() int { return 2 }\n",
        "package a\n\nfunc (a A) S() int { return 10 }\nfunc (b *B) S() int { return 2 }\n",
        "package a\n\nfunc (a A) S() int { return 1 }\nfunc (b *B) S() int { return 20 }\n",
        "package a\n\nfunc (a A) S() int { return 10 }\nfunc (b *B) S() int { return 20 }\n",
        Label.STRUCTURE,
    ),
    one_file(
        "Rust: both add a method, and a used name",
        "a.rs",
        "use std::{fmt};\n\nimpl A {\n    fn f(&self) -> u8 {\n        1\n    }\n}\n",
        "use std::{fmt, io};\n\nimpl A {\n    fn f(&self) -> u8 {\n        1\n    }\n\n    fn g(&self) -> u8 {\n        2\n    }\n}\n",
        "use std::{fmt, env};\n\nimpl A {\n    fn f(&self) -> u8 {\n        1\n    }\n\n    #[inline]\n    fn h(&self) -> u8 {\n        3\n    }\n}\n",
        "use std::{fmt, env, io};\n\nimpl A {\n    fn f(&self) -> u8 {\n        1\n    }\n\n    #[inline]\n    fn h(&self) -> u8 {\n        3\n    }\n\n    fn g(&self) -> u8 {\n        2\n    }\n}\n",
        Label.STRUCTURE,
    ),
    one_file(
        "Java: overloaded methods are told apart",
        "A.java",
        "class A {\n    int f(int a) { return 1; }\n    int f(String a) { return 2; }\n}\n",
        "class A {\n    int f(int a) { return 10; }\n    int f(String a) { return 2; }\n}\n",
        "class A {\n    int f(int a) { return 1; }\n    int f(String a) { return 20; }\n}\n",
        "class A {\n    int f(int a) { return 10; }\n    int f(String a) { return 20; }\n}\n",
        Label.STRUCTURE,
    ),
    one_file(
        "Java: both add an import",
        "A.java",
        "import java.util.List;\n\nclass A {\n}\n",
        "import java.util.List;\nimport java.util.Map;\n\nclass A {\n}\n",
        "import java.util.List;\nimport java.io.File;\n\nclass A {\n}\n",
        "import java.util.List;\nimport java.io.File;\nimport java.util.Map;\n\nclass A {\n}\n",
        Label.STRUCTURE,
    ),
]

LONG_F = "def long_one(a):\n" + "".join(f"    step_{n} = a\n" for n in range(12)) + "    return a\n"

SUSPICIOUS = [
    MergeCase(
        "one removes a name that the other newly uses",
        {"a.py": "def helper():\n    return 1\n\n\ndef other():\n    return 2\n", "b.py": "import a\n"},
        {"a.py": "def other():\n    return 2\n", "b.py": "import a\n"},
        {
            "a.py": "def helper():\n    return 1\n\n\ndef other():\n    return 2\n",
            "b.py": "import a\n\nx = a.helper()\n",
        },
        {"a.py": "def other():\n    return 2\n", "b.py": "import a\n\nx = a.helper()\n"},
        warnings=(Warn.REMOVED_NAME_USED,),
    ),
    MergeCase(
        "a name that moved to another file is not gone",
        {"a.py": "def helper():\n    return 1\n\n\ndef other():\n    return 2\n", "b.py": "import a\n"},
        {
            "a.py": "def other():\n    return 2\n",
            "b.py": "import a\n",
            "c.py": "def helper():\n    return 1\n",
        },
        {
            "a.py": "def helper():\n    return 1\n\n\ndef other():\n    return 2\n",
            "b.py": "import a\n\nx = a.helper()\n",
        },
        {
            "a.py": "def other():\n    return 2\n",
            "b.py": "import a\n\nx = a.helper()\n",
            "c.py": "def helper():\n    return 1\n",
        },
    ),
    MergeCase(
        "one changes the parameters of what the other newly calls",
        {"a.py": "def helper(x):\n    return x\n", "b.py": "import a\n"},
        {"a.py": "def helper(x, y):\n    return x\n", "b.py": "import a\n"},
        {"a.py": "def helper(x):\n    return x\n", "b.py": "import a\n\nx = a.helper(1)\n"},
        {"a.py": "def helper(x, y):\n    return x\n", "b.py": "import a\n\nx = a.helper(1)\n"},
        warnings=(Warn.SIGNATURE_CHANGED,),
    ),
    MergeCase(
        "a new parameter that may be left out breaks no call",
        {"a.py": "def helper(x):\n    return x\n", "b.py": "import a\n"},
        {"a.py": "def helper(x, y=1):\n    return x\n", "b.py": "import a\n"},
        {"a.py": "def helper(x):\n    return x\n", "b.py": "import a\n\nx = a.helper(1)\n"},
        {"a.py": "def helper(x, y=1):\n    return x\n", "b.py": "import a\n\nx = a.helper(1)\n"},
    ),
    MergeCase(
        "both add one function, in different places",
        {"a.py": LONG_F},
        {"a.py": "def twice():\n    return 1\n\n\n" + LONG_F},
        {"a.py": LONG_F + "\n\ndef twice():\n    return 2\n"},
        {"a.py": "def twice():\n    return 1\n\n\n" + LONG_F + "\n\ndef twice():\n    return 2\n"},
        warnings=(Warn.DUPLICATE_SYMBOL,),
    ),
    MergeCase(
        "both add one function to a Go package",
        {"p/a.go": "package p\n", "p/b.go": "package p\n"},
        {"p/a.go": "package p\n\nfunc Twice() {}\n", "p/b.go": "package p\n"},
        {"p/a.go": "package p\n", "p/b.go": "package p\n\nfunc Twice() {}\n"},
        {"p/a.go": "package p\n\nfunc Twice() {}\n", "p/b.go": "package p\n\nfunc Twice() {}\n"},
        warnings=(Warn.DUPLICATE_SYMBOL,),
    ),
    MergeCase(
        "imports of both sides close a cycle",
        {"p/a.py": "A = 1\n", "p/b.py": "from p import c\n", "p/c.py": "C = 1\n"},
        {"p/a.py": "from p import b\n\nA = 1\n", "p/b.py": "from p import c\n", "p/c.py": "C = 1\n"},
        {"p/a.py": "A = 1\n", "p/b.py": "from p import c\n", "p/c.py": "from p.a import A\n\nC = 1\n"},
        {
            "p/a.py": "from p import b\n\nA = 1\n",
            "p/b.py": "from p import c\n",
            "p/c.py": "from p.a import A\n\nC = 1\n",
        },
        warnings=(Warn.IMPORT_CYCLE,),
    ),
    MergeCase(
        "imports of scripts close a cycle",
        {"a.ts": "export const a = 1;\n", "b.ts": "export const b = 1;\n"},
        {"a.ts": "import { b } from './b';\nexport const a = 1;\n", "b.ts": "export const b = 1;\n"},
        {"a.ts": "export const a = 1;\n", "b.ts": 'import { a } from "./a";\nexport const b = 1;\n'},
        {
            "a.ts": "import { b } from './b';\nexport const a = 1;\n",
            "b.ts": 'import { a } from "./a";\nexport const b = 1;\n',
        },
        warnings=(Warn.IMPORT_CYCLE,),
    ),
    MergeCase(
        "imports inside functions close no cycle",
        {"a.py": "A = 1\n", "b.py": "B = 1\n"},
        {"a.py": "import b\nA = 1\n", "b.py": "B = 1\n"},
        {"a.py": "A = 1\n", "b.py": "B = 1\n\n\ndef f():\n    import a\n    return a\n"},
        {"a.py": "import b\nA = 1\n", "b.py": "B = 1\n\n\ndef f():\n    import a\n    return a\n"},
    ),
]

PROGRAMS = [*PYTHON, *SCRIPTS, *COMPILED, *SUSPICIOUS]
