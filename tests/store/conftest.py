from tests.ledger.conftest import pool as gate

__all__ = ["gate"]
