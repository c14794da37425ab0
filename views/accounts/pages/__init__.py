"""The pages of accounts: signing in and out, letting a command line in, sessions and access tokens."""

from views.accounts.pages import device, oauth, security, sign_in
from views.accounts.pages.blueprint import bp

__all__ = ["bp", "device", "oauth", "security", "sign_in"]
