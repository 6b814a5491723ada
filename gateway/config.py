"""gateway.toml: every key, its default and its limits; environment variables override the file (GATEWAY_DIMSE__PORT=11113).

Untrusted text enters here, so this is one of the two places where pydantic is used. Whatever is wrong is told at once.
"""

import difflib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gateway.errors import ConfigError

_PREFIX = "GATEWAY_"
AE_TITLE = r"^[\x21-\x5B\x5D-\x7E]([\x20-\x5B\x5D-\x7E]{0,14}[\x21-\x5B\x5D-\x7E])?$"
"""PS3.5 6.2: up to 16 characters of the default repertoire, no backslash, no spaces at the ends."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class GatewaySection(Section):
    data_dir: Path = Path("var")
    pipelines: tuple[Path, ...] = ()
    """Folders with pipelines of your own, beside the built-in ones."""


class DimseSection(Section):
    ae_title: str = Field(default="AIGATEWAY", pattern=AE_TITLE)
    host: str = "127.0.0.1"
    """Address to listen on. The default is this machine only; "0.0.0.0" lets scanners in."""
    port: int = Field(default=11112, ge=0, le=65535)
    calling_ae_titles: tuple[str, ...] = ()
    """Who may send. Empty: everybody who can reach the port."""
    maximum_associations: int = Field(default=32, ge=1, le=512)
    maximum_instance_bytes: int = Field(default=2 * 1024**3, ge=1024)
    idle_seconds: float = Field(default=60, gt=0)
    """An association that says nothing for so long is ended."""


class WebSection(Section):
    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=0, le=65535)


class DatabaseSection(Section):
    url: str = ""
    """Empty: SQLite in data_dir. PostgreSQL: postgresql://user@host/database."""


class TritonSection(Section):
    url: str = "embedded"
    """"embedded" starts NVIDIA Triton on this machine; host:port is the gRPC address of a Triton elsewhere."""
    environment: Path = Path(".venv-triton")
    models: tuple[Path, ...] = ()
    """Folders with Triton models of your own, beside the built-in ones (embedded only)."""
    shared_memory: bool = False
    """A Triton elsewhere that sees this machine's /dev/shm gets volumes through it; the embedded one always does."""
    timeout_seconds: float = Field(default=600, gt=0)
    slots: int = Field(default=1, ge=1)
    """Jobs of one model at a time."""


class CompletenessSection(Section):
    quiet_seconds: float = Field(default=10, ge=0)
    deadline_seconds: float = Field(default=3600, gt=0)
    """A series whose association never ends is taken as it is after so long."""


class RulesSection(Section):
    file: Path = Path("rules.yaml")


class DeliverySection(Section):
    retry_seconds: float = Field(default=10, gt=0)
    """Wait after the first failed attempt; it doubles with every further one."""
    retry_at_most_seconds: float = Field(default=3600, gt=0)


class StoreSection(Section):
    keep_free_bytes: int = Field(default=1024**3, ge=0)
    """Below so much free space on the store's disk, senders are told to try again later (0xA700)."""


class LogSection(Section):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "console"] = "console"


class Config(Section):
    gateway: GatewaySection = GatewaySection()
    dimse: DimseSection = DimseSection()
    web: WebSection = WebSection()
    database: DatabaseSection = DatabaseSection()
    triton: TritonSection = TritonSection()
    completeness: CompletenessSection = CompletenessSection()
    rules: RulesSection = RulesSection()
    delivery: DeliverySection = DeliverySection()
    store: StoreSection = StoreSection()
    log: LogSection = LogSection()
    peers: tuple[dict[str, Any], ...] = ()
    """One table a peer: name, protocol, and the keys of that protocol (peers/<protocol>.py says which)."""

    @property
    def database_url(self) -> str:
        url = self.database.url or f"sqlite:///{self.gateway.data_dir / 'gateway.db'}"
        return url.replace("postgresql://", "postgresql+psycopg://", 1)


def load(path: Path | None, environment: Mapping[str, str] = os.environ) -> Config:
    """Read `path` (None: defaults only); raise ConfigError with one sentence for each thing that is wrong."""
    try:
        values = tomllib.loads(path.read_text()) if path else {}
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path}: expected TOML: {error}"]) from error
    return parse(_overridden(values, environment), where=str(path or "defaults"))


def parse(values: Mapping[str, Any], *, where: str) -> Config:
    try:
        config = Config.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError([f"{where}: {_problem(found)}" for found in error.errors()]) from error
    names = [str(peer.get("name", "")) for peer in config.peers]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ConfigError([f"{where}: [[peers]] {name!r}: expected a name that no other peer has" for name in sorted(twice)])
    return config


def _overridden(values: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
    """GATEWAY_SECTION__KEY=value, read as TOML where it is TOML (numbers, lists), else as text."""
    merged: dict[str, Any] = {key: dict(value) if isinstance(value, dict) else value for key, value in values.items()}
    for name, value in environment.items():
        section, _, key = name.removeprefix(_PREFIX).lower().partition("__")
        if not name.startswith(_PREFIX) or not key:
            continue
        try:
            merged.setdefault(section, {})[key] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            merged[section][key] = value
    return merged


def _problem(found: Any) -> str:
    *sections, key = [str(part) for part in found["loc"]] or ["file"]
    where = f"[{'.'.join(sections)}] {key}" if sections else f"[{key}]"
    if found["type"] != "extra_forbidden":
        return f"{where}: {found['msg'][0].lower()}{found['msg'][1:]}"
    known = Config.model_fields
    section = known.get(sections[0]) if sections else None
    if section is not None and isinstance(section.default, Section):
        known = type(section.default).model_fields
    near = difflib.get_close_matches(key, known, n=1)
    return f"{where}: unknown key" + (f", did you mean {near[0]!r}?" if near else f"; known are {', '.join(sorted(known))}")
