"""Sign-in by OpenID Connect (Core 3.1): the code flow with PKCE (RFC 7636) against the configured issuer, by Authlib.

What is believed of a person is in an ID token that this issuer has signed for us, for this very sign-in; what they may do follows
from one claim of it. What a sign-in under way needs is in a cookie of the browser that began it, signed.
"""

import hashlib
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from authlib.integrations.starlette_client import OAuth
from fastapi import Request
from fastapi.responses import Response
from itsdangerous import BadData, URLSafeTimedSerializer

from gateway.access.signin import NotLetIn
from gateway.configuration.webkeys import OidcSection, client_secret
from gateway.rows.accounts import Right

_ALGORITHMS = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519"})
"""Signatures by a key that only the issuer has; "none" and shared secrets are not among them."""
_LASTS_SECONDS = 600
_TIMEOUT_SECONDS = 10


@dataclass(frozen=True)
class Proved:
    """Somebody as the issuer knows them; `role` is None where they may do nothing here, or not any more."""

    subject: str
    name: str
    role: Right | None


class Issuer:
    """Raises ConfigError where the secret cannot be read."""

    def __init__(self, section: OidcSection) -> None:
        self._section, self.name = section, section.issuer
        secret = client_secret(section)
        kept = hashlib.sha256(f"sign-in under way {secret}".encode()).hexdigest()
        self._signer = URLSafeTimedSerializer(kept, salt="oidc")
        verify = ssl.create_default_context(cafile=section.authorities) if section.authorities else True
        self._client: Any = OAuth().register(
            "oidc",
            client_id=section.client_id,
            client_secret=secret,
            server_metadata_url=f"{section.issuer.rstrip('/')}/.well-known/openid-configuration",
            client_kwargs={
                "scope": section.scope, "code_challenge_method": "S256", "timeout": _TIMEOUT_SECONDS, "verify": verify,
            },
        )  # fmt: skip

    async def begin(self, request: Request, back: str, then: str) -> tuple[Response, str]:
        """The answer that sends the browser to the issuer, and what its cookie is to hold. Raises NotLetIn."""
        request.scope["session"] = {}
        try:
            await self._metadata()
            answer: Response = await self._client.authorize_redirect(request, back)
        except Exception as error:
            raise NotLetIn(f"the identity provider does not answer as expected ({type(error).__name__})") from error
        return answer, str(self._signer.dumps({"session": request.scope["session"], "then": then}))

    def begun(self, kept: str) -> Mapping[str, Any] | None:
        """What a cookie of ours holds; None where it is none, or was begun too long ago."""
        try:
            found: Mapping[str, Any] = self._signer.loads(kept, max_age=_LASTS_SECONDS)
        except BadData:
            return None
        return found

    async def end(self, request: Request, begun: Mapping[str, Any]) -> tuple[Proved, str]:
        """Who came back, and where they wanted to go. Raises NotLetIn."""
        request.scope["session"] = begun["session"]
        expected = {
            "iss": {"essential": True, "value": self._section.issuer},
            "aud": {"essential": True, "value": self._section.client_id},
            "sub": {"essential": True},
        }
        try:
            await self._metadata()
            token = await self._client.authorize_access_token(request, claims_options=expected)
            claims = token["userinfo"]
        except Exception as error:
            raise NotLetIn(f"the identity provider did not prove who you are ({type(error).__name__})") from error
        return self._proved(claims), begun["then"]

    async def _metadata(self) -> None:
        """The issuer's own word about itself, once; it has to be the issuer that is configured."""
        found = await self._client.load_server_metadata()
        if found.get("issuer") != self._section.issuer:
            raise ValueError("expected the metadata of the configured issuer")
        offered = found.get("id_token_signing_alg_values_supported") or ["RS256"]
        found["id_token_signing_alg_values_supported"] = [one for one in offered if one in _ALGORITHMS]

    def _proved(self, claims: Mapping[str, Any]) -> Proved:
        said = claims.get(self._section.role_claim, ())
        listed = [said] if isinstance(said, str) else said if isinstance(said, list) else []
        values = {one for one in listed if isinstance(one, str)}
        roles = {
            Right.ADMINISTRATOR: self._section.administrators, Right.OPERATOR: self._section.operators,
            Right.VIEWER: self._section.viewers,
        }  # fmt: skip
        role = next((role for role, named in roles.items() if values & set(named)), None)
        return Proved(str(claims["sub"]), str(claims.get(self._section.name_claim) or claims["sub"]), role)
