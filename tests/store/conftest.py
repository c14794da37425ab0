from tests.ledger.conftest import gate

__all__ = ["gate"]
