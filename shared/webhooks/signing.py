"""Standard Webhooks: secrets, signatures, and when to try again (https://www.standardwebhooks.com). Pure."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import random
import secrets

from shared.errors import InvalidInput

#: bytes of a secret, as the specification says
_MIN_BYTES, _MAX_BYTES = 24, 64
_PREFIX = "whsec_"

#: seconds before the second try, by which each wait is longer, the longest, and how far each varies
_FIRST, _GROWTH, _LONGEST, _JITTER = 5.0, 3.0, 7200.0, 0.25
#: seconds for which a delivery is tried
TRY_FOR = 86_400.0


def new_secret() -> str:
    """A secret of 256 random bits."""
    return _PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def key_of(secret: str) -> bytes:
    """The key that a secret stands for. Raises InvalidInput."""
    text = secret.removeprefix(_PREFIX)
    try:
        key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        key = b""
    if text == secret or not _MIN_BYTES <= len(key) <= _MAX_BYTES:
        raise InvalidInput.at(
            "/webhook/secret",
            f"must be whsec_ and the base64 of {_MIN_BYTES} to {_MAX_BYTES} random bytes",
        )
    return key


def headers(secret: str, event_id: str, body: bytes, now: float) -> dict[str, str]:
    """The headers of one try; ``now`` is in seconds since 1970, and receivers refuse old ones."""
    timestamp = str(int(now))
    signed = b".".join((event_id.encode(), timestamp.encode(), body))
    signature = base64.b64encode(hmac.digest(key_of(secret), signed, hashlib.sha256)).decode()
    return {
        "Content-Type": "application/json",
        "webhook-id": event_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": f"v1,{signature}",
    }


def wait_after(tries: int) -> float:
    """Seconds until the next try after so many: 5 s, 15 s, 45 s … 2 h, each a quarter more or less."""
    wait = min(_LONGEST, _FIRST * _GROWTH ** min(tries - 1, 20))
    return wait * random.uniform(1 - _JITTER, 1 + _JITTER)  # spreads them
