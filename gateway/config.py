"""gateway.toml: every key, its default and its limits; environment variables override the file (GATEWAY_DIMSE__PORT=11113).

Untrusted text enters here, so this is one of the two places where pydantic is used. Whatever is wrong is told at once.
Relative paths start at the working directory. The keys of a peer are its protocol's own; app.plan has them checked.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from gateway.errors import ConfigError

_PREFIX = "GATEWAY_"
_AE_TITLE = re.compile(r"[\x21-\x5B\x5D-\x7E]([\x20-\x5B\x5D-\x7E]{0,14}[\x21-\x5B\x5D-\x7E])?")
_DATABASE = re.compile(r"|sqlite:///.+|postgresql(\+psycopg)?://.+", re.DOTALL)
_TRITON = re.compile(r"embedded|[^\s/]+:[0-9]{1,5}")


def _matching(pattern: re.Pattern[str], expected: str) -> AfterValidator:
    def check(value: str) -> str:
        if pattern.fullmatch(value) is None:
            raise ValueError(expected)
        return value

    return AfterValidator(check)


def _each_name_once(peers: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
    names = [str(peer["name"]) for peer in peers if "name" in peer]
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"expected names that no two peers share: {', '.join(twice)}")
    return peers


AeTitle = Annotated[
    str, _matching(_AE_TITLE, "expected 1 to 16 printable ASCII characters, no backslash, no space at an end (PS3.5 6.2)")
]
DatabaseUrl = Annotated[str, _matching(_DATABASE, "expected sqlite:///FILE or postgresql://USER@HOST/DATABASE")]
TritonUrl = Annotated[str, _matching(_TRITON, 'expected "embedded", or HOST:PORT of a Triton\'s gRPC endpoint')]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class GatewaySection(Section):
    data_dir: Path = Path("var")
    pipelines: tuple[Path, ...] = ()
    """Folders with pipelines of your own, beside the built-in ones."""


class DimseSection(Section):
    ae_title: AeTitle = "AIGATEWAY"
    host: str = "127.0.0.1"
    """Address to listen on. The default is this machine only; "0.0.0.0" lets scanners in."""
    port: int = Field(default=11112, ge=0, le=65535)
    calling_ae_titles: tuple[AeTitle, ...] = ()
    """Who may send. Empty: everybody who can reach the port."""
    maximum_associations: int = Field(default=32, ge=1, le=512)
    maximum_instance_bytes: int = Field(default=2 * 1024**3, ge=1024)
    idle_seconds: float = Field(default=60, gt=0)
    """An association that says nothing for so long is ended."""


class WebSection(Section):
    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=0, le=65535)


class DatabaseSection(Section):
    url: DatabaseUrl = ""
    """Empty: SQLite in data_dir. PostgreSQL: postgresql://user@host/database."""


class TritonSection(Section):
    url: TritonUrl = "embedded"
    """"embedded" starts NVIDIA Triton on this machine; host:port is the gRPC address of a Triton elsewhere."""
    environment: Path | None = None
    """Where the embedded Triton is installed; by default beside the gateway's own environment, whatever the working directory."""
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
    peers: Annotated[tuple[dict[str, Any], ...], AfterValidator(_each_name_once)] = ()
    """One table a peer: name, protocol, and the keys of that protocol (peers/<protocol>.py says which)."""

    @property
    def database_url(self) -> str:
        url = self.database.url or f"sqlite:///{self.gateway.data_dir / 'gateway.db'}"
        return url.replace("postgresql://", "postgresql+psycopg://", 1)


def load(path: Path | None, environment: Mapping[str, str] = os.environ) -> Config:
    """Read `path` (None: defaults only); raise ConfigError with one sentence for each thing that is wrong."""
    values, where, names = _read(path, environment)
    return parse(values, where=where, names=names)


def understood(path: Path | None, environment: Mapping[str, str] = os.environ) -> tuple[Config, tuple[str, ...]]:
    """What `path` says without what is wrong in it, and the sentences about that. Raises ConfigError where it is no TOML."""
    values, where, names = _read(path, environment)
    try:
        return parse(values, where=where, names=names), ()
    except ConfigError as error:
        return Config.model_validate(_without_wrong(values)), error.problems


def _without_wrong(values: dict[str, Any]) -> dict[str, Any]:
    """Leave out each key that is wrong, or the whole section where no key of it is to blame."""
    try:
        Config.model_validate(values)
    except ValidationError as error:
        kept = {name: dict(section) if isinstance(section, dict) else section for name, section in values.items()}
        for section, *keys in (found["loc"] for found in error.errors(include_input=False)):
            table = kept.get(str(section))
            if keys and isinstance(table, dict):
                table.pop(keys[0], None)
            else:
                kept.pop(str(section), None)
        return _without_wrong(kept)
    return values


def _read(path: Path | None, environment: Mapping[str, str]) -> tuple[dict[str, Any], str, dict[tuple[str, str], str]]:
    """The values of the file under those of the environment; where they are from; the variables that set (section, key)."""
    try:
        values = tomllib.loads(path.read_text("utf-8")) if path else {}
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path}: expected TOML: {_lowered(str(error))}"]) from error
    overrides = _overrides(environment)
    for (section, key), (_, value) in overrides.items():
        table = values.get(section)
        values[section] = {**(table if isinstance(table, dict) else {}), key: value}
    return values, str(path or "defaults"), {place: name for place, (name, _) in overrides.items()}


def parse(values: Mapping[str, Any], *, where: str, names: Mapping[tuple[str, str], str] | None = None) -> Config:
    """`where` the values are from opens every problem; `names` are the variables that set (section, key), told instead."""
    try:
        return Config.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError([_problem(found, where, names or {}) for found in error.errors(include_input=False)]) from error


def _overrides(environment: Mapping[str, str]) -> dict[tuple[str, str], tuple[str, Any]]:
    """The variable's name and its value, by the section and key that it sets: GATEWAY_SECTION__KEY=value."""
    found = {}
    for name, text in environment.items():
        section, _, key = name.removeprefix(_PREFIX).lower().partition("__")
        if name.startswith(_PREFIX) and section and key:
            found[section, key] = (name, _value(text))
    return found


def _value(text: str) -> Any:
    """Lists are written as in TOML; everything else is text that the key's type reads."""
    if not text.lstrip().startswith("["):
        return text
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _problem(found: Any, where: str, names: Mapping[tuple[str, str], str]) -> str:
    place = [str(part) for part in found["loc"]]
    expected = _unknown(place) if found["type"] == "extra_forbidden" else _lowered(found["msg"].removeprefix("Value error, "))
    section, *keys = place
    for place_set, name in names.items():
        if place_set == (section, keys[0] if keys else place_set[1]):
            return f"{name}: {expected}"
    return f"{where}: [{section}]{''.join(f' {key}' for key in keys)}: {expected}"


def _unknown(place: list[str]) -> str:
    known = Config.model_fields
    if len(place) > 1:
        known = type(known[place[0]].default).model_fields
    near = difflib.get_close_matches(place[-1], known, n=1)
    return "unknown key" + (f", did you mean {near[0]!r}?" if near else f"; known are {', '.join(sorted(known))}")


def _lowered(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]
