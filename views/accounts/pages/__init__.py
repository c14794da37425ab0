"""The pages of accounts: signing in and out, letting a command line in, sessions and access tokens."""

from views.accounts.pages import device, providers, security, sign_in
from views.accounts.pages.blueprint import bp

__all__ = ["bp", "device", "providers", "security", "sign_in"]
