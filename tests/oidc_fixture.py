"""A small OpenID provider (discovery, JWKS, code flow with PKCE, RS256): it asks who one is, believes it, and says it signed.

    with a_provider({"u1": {"preferred_username": "a.miller", "groups": ["radiology"]}}) as provider:
        provider.issuer, provider.client_id, provider.client_secret
        provider.spoil = {"aud": "somebody else"}       # claims of the next tokens, to be refused

Who signs in chooses a subject on its page.
"""

import base64
import hashlib
import html
import secrets
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlencode

import uvicorn
from joserfc import jwt
from joserfc.jwk import RSAKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route


@dataclass
class Provider:
    people: Mapping[str, Mapping[str, Any]]
    issuer: str = ""
    client_id: str = "gateway"
    client_secret: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    key: RSAKey = field(default_factory=lambda: RSAKey.generate_key(2048, {"kid": "k1"}, private=True))
    signs_with: RSAKey | None = None
    spoil: dict[str, Any] = field(default_factory=dict)
    codes: dict[str, dict[str, str]] = field(default_factory=dict)

    def metadata(self, _request: Request) -> Response:
        return JSONResponse({
            "issuer": self.issuer, "authorization_endpoint": f"{self.issuer}/authorize", "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/jwks", "response_types_supported": ["code"], "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256", "none", "HS256"], "code_challenge_methods_supported": ["S256"],
        })  # fmt: skip

    def jwks(self, _request: Request) -> Response:
        return JSONResponse({"keys": [self.key.as_dict(private=False)]})

    def authorize(self, request: Request) -> Response:
        asked = dict(request.query_params)
        assert asked["response_type"] == "code"
        assert asked["client_id"] == self.client_id
        assert asked["code_challenge_method"] == "S256"
        if "subject" not in asked:
            links = "".join(
                f'<li><a href="?{html.escape(urlencode(asked | {"subject": one}))}">{html.escape(one)}</a></li>'
                for one in self.people
            )
            return HTMLResponse(f"<!doctype html><html lang=en><title>Provider</title><h1>Who are you?</h1><ul>{links}</ul>")
        code = secrets.token_urlsafe(16)
        self.codes[code] = asked
        return RedirectResponse(f"{asked['redirect_uri']}?{urlencode({'code': code, 'state': asked['state']})}", 302)

    async def token(self, request: Request) -> Response:
        given = {key: values[0] for key, values in parse_qs((await request.body()).decode()).items()}
        asked = self.codes.pop(given.get("code", ""), None)
        basic = base64.b64encode(f"{self.client_id}:{self.client_secret}".encode()).decode()
        verifier = hashlib.sha256(given.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(verifier).decode().rstrip("=")
        if (
            asked is None
            or request.headers.get("authorization") != f"Basic {basic}"
            or challenge != asked["code_challenge"]
            or given.get("redirect_uri") != asked["redirect_uri"]
        ):
            return JSONResponse({"error": "invalid_grant"}, 400)
        now = int(time.time())
        claims = {
            "iss": self.issuer, "sub": asked["subject"], "aud": self.client_id, "iat": now, "exp": now + 300,
            "nonce": asked["nonce"], **self.people[asked["subject"]],
        } | self.spoil  # fmt: skip
        signed = jwt.encode({"alg": "RS256", "kid": "k1"}, claims, self.signs_with or self.key)
        return JSONResponse({"access_token": "a", "token_type": "Bearer", "expires_in": 300, "id_token": signed})

    @property
    def section(self) -> dict[str, Any]:
        return {"issuer": self.issuer, "client_id": self.client_id}


@contextmanager
def a_provider(people: Mapping[str, Mapping[str, Any]]) -> Iterator[Provider]:
    provider = Provider(people)
    listening = socket.create_server(("127.0.0.1", 0))
    provider.issuer = f"http://127.0.0.1:{listening.getsockname()[1]}"
    paths = {"/.well-known/openid-configuration": provider.metadata, "/jwks": provider.jwks, "/authorize": provider.authorize}
    app = Starlette(
        routes=[Route(path, answer) for path, answer in paths.items()] + [Route("/token", provider.token, methods=["POST"])]
    )
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off", ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield provider
    finally:
        server.should_exit = True
        thread.join()
