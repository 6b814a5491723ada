"""The keys of [web] and [web.oidc]: where the console is, who listens in, and who else may say who somebody is."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from gateway.configuration.forms import LOOPBACK, IssuerUrl, Section, WebUrl
from gateway.errors import ConfigError


class OidcSection(Section):
    """An identity provider (OpenID Connect); what somebody may do follows from the values of one claim."""

    issuer: IssuerUrl
    """As its discovery document names itself."""
    client_id: Annotated[str, Field(min_length=1)]
    client_secret_file: Path
    name: str = "Single sign-on"
    """What the sign-in page calls it."""
    scope: str = "openid profile email"
    name_claim: str = "preferred_username"
    role_claim: str = "groups"
    viewers: tuple[str, ...] = ()
    """Values of the claim that make a viewer."""
    operators: tuple[str, ...] = ()
    administrators: tuple[str, ...] = ()
    authorities: Path | None = None
    """Who must have signed the provider's certificate (PEM); by default those that this machine trusts."""

    @model_validator(mode="after")
    def _somebody_may(self) -> Self:
        if not (self.viewers or self.operators or self.administrators):
            raise ValueError("oidc expects viewers, operators or administrators: values of role_claim for at least one role")
        return self


def client_secret(section: OidcSection) -> str:
    """Raises ConfigError where its file cannot be read."""
    try:
        return section.client_secret_file.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(["[web.oidc] client_secret_file: expected a readable file with the secret"]) from error


class WebSection(Section):
    """The console and REST."""

    host: str = "127.0.0.1"
    """Address to listen on. The default is this machine only; another one needs TLS."""
    port: int = Field(default=8080, ge=0, le=65535)
    url: WebUrl = ""
    """What people call it by, such as https://ai.hospital: for a proxy in front, OpenID Connect, and links in messages."""
    certificate: Path | None = None
    """PEM; with its key, the console speaks https."""
    key: Path | None = None
    behind_proxy: bool = False
    """A proxy in front ends TLS and says last in X-Forwarded-For who asks; nobody else reaches this port."""
    idle_minutes: float = Field(default=30, gt=0)
    """Who does nothing for so long is signed out."""
    session_hours: float = Field(default=12, gt=0)
    """After so long everybody signs in again."""
    viewer: Path | None = None
    """Where the viewer is installed; by default beside the gateway's own environment, whatever the working directory."""
    oidc: OidcSection | None = None
    """[web.oidc]: beside the accounts of this gateway, those of an identity provider."""

    @model_validator(mode="after")
    def _is_safe(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("expected certificate and key, both or none")
        if self.host not in LOOPBACK and self.certificate is None and not self.behind_proxy:
            raise ValueError(
                "host expects certificate and key, or behind_proxy = true where a proxy ends TLS: without TLS everybody on the"
                " network could read passwords and patients' names"
            )
        return self

    @property
    def known_as(self) -> str:
        """Where others reach it."""
        scheme = "https" if self.certificate else "http"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return self.url or f"{scheme}://{host}:{self.port}"
