"""An authenticator in software: makes passkeys and signs challenges with them, as a browser would send the answers."""

import hashlib
import json
import secrets
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from webauthn.helpers import bytes_to_base64url as text_of
from webauthn.helpers import encode_cbor

USER_PRESENT, USER_VERIFIED, ATTESTED = 0x01, 0x04, 0x40


@dataclass
class Authenticator:
    """One passkey. Change its attributes to make answers that a server should refuse."""

    origin: str = "http://localhost:8000"
    rp_id: str = "localhost"
    flags: int = USER_PRESENT | USER_VERIFIED
    count: int = 0
    user_handle: str = ""
    credential_id: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def create(self, options: dict[str, Any]) -> str:
        """The answer to options of a registration."""
        self.user_handle = options["user"]["id"]
        numbers = self.key.public_key().public_numbers()
        x, y = numbers.x.to_bytes(32), numbers.y.to_bytes(32)
        public = encode_cbor({1: 2, 3: -7, -1: 1, -2: x, -3: y})
        attested = bytes(16) + len(self.credential_id).to_bytes(2) + self.credential_id + public
        data = self._data(ATTESTED) + attested
        attestation = encode_cbor({"fmt": "none", "attStmt": {}, "authData": data})
        response = {"attestationObject": text_of(attestation), "transports": ["internal", "future"]}
        return self._answer("webauthn.create", options["challenge"], response)

    def get(self, options: dict[str, Any]) -> str:
        """The answer to options of a sign-in."""
        data, client = self._data(), self._client("webauthn.get", options["challenge"])
        signature = self.key.sign(data + hashlib.sha256(client).digest(), ec.ECDSA(SHA256()))
        response = {
            "authenticatorData": text_of(data),
            "signature": text_of(signature),
            "userHandle": self.user_handle,
        }
        return self._answer("webauthn.get", options["challenge"], response)

    def _data(self, more: int = 0) -> bytes:
        self.count += 1
        return (
            hashlib.sha256(self.rp_id.encode()).digest() + bytes([self.flags | more]) + self.count.to_bytes(4)
        )

    def _client(self, type_: str, challenge: str) -> bytes:
        return json.dumps({"type": type_, "challenge": challenge, "origin": self.origin}).encode()

    def _answer(self, type_: str, challenge: str, response: dict[str, Any]) -> str:
        id_ = text_of(self.credential_id)
        response["clientDataJSON"] = text_of(self._client(type_, challenge))
        return json.dumps({"id": id_, "rawId": id_, "type": "public-key", "response": response})
