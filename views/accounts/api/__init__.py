"""JSON API of accounts: device login, the current user, sessions and API keys; OAuth for clients."""

from views.accounts.api import token_routes
from views.accounts.api.account_routes import bp

__all__ = ["bp", "token_routes"]
