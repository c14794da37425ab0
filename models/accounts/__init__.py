"""Users and authentication: identities, sessions, devices, API keys and sign-in links."""

from models.accounts import exported_account
from models.accounts.api_keys import ApiKey
from models.accounts.credentials import delete_expired
from models.accounts.data_exports import DataExport
from models.accounts.device_grants import DeviceGrant, RefreshToken
from models.accounts.device_requests import DeviceRequest
from models.accounts.email_changes import EmailChange
from models.accounts.passkeys import Passkey, SpentChallenge
from models.accounts.sessions import SESSION_TYPES, Fingerprint, FingerprintUser, LoginLink, Session
from models.accounts.users import API_KEY_TYPES, EncryptedApiKey, OAuthAccount, User, VerificationToken
from models.accounts.write_limits import WriteQuota

__all__ = [
    "API_KEY_TYPES",
    "SESSION_TYPES",
    "ApiKey",
    "DataExport",
    "DeviceGrant",
    "DeviceRequest",
    "EmailChange",
    "EncryptedApiKey",
    "Fingerprint",
    "FingerprintUser",
    "LoginLink",
    "OAuthAccount",
    "Passkey",
    "RefreshToken",
    "Session",
    "SpentChallenge",
    "User",
    "VerificationToken",
    "WriteQuota",
    "delete_expired",
    "exported_account",
]
