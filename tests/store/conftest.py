from tests.billing.conftest import gate

__all__ = ["gate"]
