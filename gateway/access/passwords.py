"""Passwords: Argon2id (RFC 9106), at OWASP's least cost and few at a time, so that sign-ins take little from everything else."""

import hashlib
import secrets
import threading

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

MINIMUM, MAXIMUM = 12, 256
_ARGON2 = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
_AT_A_TIME = threading.BoundedSemaphore(2)
_NOBODYS = "$argon2id$v=19$m=19456,t=2,p=1$DT+qhBXwO0tBnG75L7KBTA$VmpLCWXaf1kSRASjirghbFI/6TO2zMC00MmiZJz2cRk"
"""Of no known password: whoever names an account that is not there waits as long as who names one that is."""


def problem(password: str, name: str) -> str:
    """Why it is no good password for this account; empty where it is one."""
    if not MINIMUM <= len(password) <= MAXIMUM:
        return f"expected a password of {MINIMUM} to {MAXIMUM} characters"
    if len(set(password)) < 5 or name.lower() in password.lower():
        return "expected a password that is harder to guess: not the name, and not few characters again and again"
    return ""


def hashed(password: str) -> str:
    with _AT_A_TIME:
        return _ARGON2.hash(password)


def fits(password: str, password_hash: str) -> bool:
    """It takes the same time where there is no hash."""
    with _AT_A_TIME:
        try:
            return _ARGON2.verify(password_hash or _NOBODYS, password[:MAXIMUM]) and bool(password_hash)
        except (VerificationError, InvalidHashError):
            return False


def secret() -> str:
    """256 random bits as text."""
    return secrets.token_urlsafe(32)


def digest(of: str) -> str:
    """What is kept of such a secret: it cannot be guessed, so it needs no salt and no slow hash."""
    return hashlib.sha256(of.encode("utf-8", "replace")).hexdigest()
