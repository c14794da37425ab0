"""A small project in several languages, indexed: what the tests of the map look at."""

from typing import NamedTuple

from sqlalchemy.orm import Session as OrmSession

from models.atlas import index_project
from models.core.jobs import transaction
from models.ledger import Account
from models.projects import Project
from models.projects.project_editing import create_project
from models.projects.workspaces.workspace_editing import create_workspace
from tests.projects.project_rows import caller_of, pushed

SHOP = {
    "README.md": "# Shop\n\nSells tea.\n\n## Prices\n\nIn cents.\n",
    "shop/__init__.py": "",
    "shop/app.py": '''"""Entry."""
from shop.cart.basket import Basket
from shop.money import to_cents


def main() -> None:
    """Run."""
    basket = Basket()
    basket.add("tea", to_cents("1.50"))
    print(basket.total())
''',
    "shop/money.py": '''"""Amounts."""
CENTS = 100


def to_cents(text: str) -> int:
    """An amount in cents."""
    return round(float(text) * CENTS)
''',
    "shop/cart/basket.py": '''"""Baskets."""
from ..money import CENTS, to_cents


class Basket:
    """What is bought."""

    def add(self, name: str, cents: int) -> None:
        self.items = [(name, cents or to_cents("1"))]

    def total(self) -> float:
        return sum(cents for _, cents in self.items) / CENTS
''',
    "tests/test_money.py": "from shop.money import to_cents\n\n\ndef test_cents() -> None:\n    assert to_cents('1') == 100\n",
    "web/src/index.ts": "import { price } from './price';\nimport React from 'react';\nexport const show = () => price(3);\n",
    "web/src/price.ts": "export function price(cents: number): string {\n  return String(cents);\n}\n",
    ".github/ci.yml": "on: push\n",
    "node_modules/x/index.js": "module.exports = 1;\n",
    "logo.png": "\0\1",
}


class Shop(NamedTuple):
    """The ids of the project, its main workspace and its first snapshot."""

    project: str
    workspace: str
    snapshot: str


def shop_rows(user_id: str, account: Account, files: dict[str, str] = SHOP) -> Shop:
    """Make it in the current transaction, not indexed."""
    caller = caller_of(user_id, account)
    project = create_project(caller, account, "Shop")
    main = create_workspace(caller, project.id, "main")
    return Shop(project.id, main.id, pushed(caller, project.id, main.id, files, "Begin"))


def indexed(session: OrmSession, project_id: str) -> Project:
    """Index it; the project."""
    session.commit()
    index_project(transaction, project_id)
    return session.get_one(Project, project_id)
