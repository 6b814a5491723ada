"""The sections of gateway.toml: every key, its default and its limits.

Untrusted text enters here and in oversight.py. Relative paths start at the working directory. The keys of a peer are its
protocol's own; plan.plan has them checked.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, model_validator

from gateway.configuration.forms import AeTitle, CallerName, DatabaseUrl, Section, TimeZone, TritonUrl
from gateway.configuration.oversight import AlarmsSection, AuditSection, SilenceSection, SyntheticSection, TracingSection
from gateway.configuration.patience import CompletenessSection, PriorsSection
from gateway.configuration.settings import check_apart, check_names_once, listed, network, some, sop_class_uid
from gateway.configuration.webkeys import WebSection
from gateway.doors.policy import SERVICES, Policy, Service

SYNTHETIC = "synthetic"
"""The peer that synthetic studies have where no test peer is named."""


def _each_name_once(tables: tuple[dict[str, Any], ...], info: ValidationInfo) -> tuple[dict[str, Any], ...]:
    check_names_once([str(table["name"]) for table in tables if "name" in table], str(info.field_name))
    return tables


class GatewaySection(Section):
    data_dir: Path = Path("var")
    """This process's own: journals, locks, Triton's log, and by default store and database."""
    pipelines: tuple[Path, ...] = ()
    """Folders with pipelines of your own, beside the built-in ones."""
    time_zone: TimeZone = "UTC"
    """In which the time windows of rules are meant, and results tell times whose source names no zone: "Europe/Berlin"."""


class DimseSection(Section):
    ae_title: AeTitle = "AIGATEWAY"
    host: str = "127.0.0.1"
    """Address to listen on. The default is this machine only; "0.0.0.0" lets scanners in, "::" those that come by IPv6."""
    port: int = Field(default=11112, ge=0, le=65535)
    tls_port: int | None = Field(default=None, ge=0, le=65535)
    """A second port, which speaks DICOM TLS by what [tls] says (2762 is the registered one)."""
    processes: int = Field(default=1, ge=1, le=16)
    """Ingest processes that share the ports."""
    stat_ae_titles: tuple[AeTitle, ...] = ()
    """Called AE titles that are ours too; what is sent to one of them is stat, whatever its rule says."""
    calling_ae_titles: tuple[AeTitle, ...] = ()
    """Who may send, where that is all to say of them; [[callers]] say more. Neither: everybody who can reach a port."""
    maximum_associations: int = Field(default=32, ge=1, le=512)
    maximum_per_address: int = Field(default=64, ge=1)
    """Connections of one address at a time, in each process."""
    maximum_half_open: int = Field(default=64, ge=1)
    """Connections that have not associated yet, of all addresses together, in each process; past it, the oldest of whichever
    address has most of them is closed."""
    maximum_instance_bytes: int = Field(default=2 * 1024**3, ge=1024)
    idle_seconds: float = Field(default=60, gt=0)
    """An association that says nothing for so long is ended."""
    pdu_seconds: float = Field(default=30, gt=0)
    """A PDU that has begun must have come whole after so long."""
    association_seconds: float = Field(default=15, gt=0)
    """From the connection to the whole A-ASSOCIATE-RQ, TLS handshake included (ARTIM, PS3.8 9.1.5)."""


class TlsSection(Section):
    """PEM files; certificate, key and authorities, or none of them."""

    certificate: Path | None = None
    """Ours, followed by those of the authorities between it and the root."""
    key: Path | None = None
    authorities: Path | None = None
    """Who must have signed a caller's certificate."""
    crl: Path | None = None
    """Revocation lists of those authorities; one that is out of date lets nobody in."""
    minimum_version: Literal["1.2", "1.3"] = "1.2"

    @model_validator(mode="after")
    def _all_or_none(self) -> Self:
        if len({self.certificate is None, self.key is None, self.authorities is None}) > 1 or (self.crl and not self.key):
            raise ValueError("expected certificate, key and authorities, all three or none")
        return self


class CallerSection(Section):
    """One caller that is let in; a key that is left out asks for nothing."""

    name: CallerName
    calling_ae_title: Annotated[tuple[AeTitle, ...], BeforeValidator(listed), AfterValidator(some)] | None = None
    called_ae_titles: Annotated[tuple[AeTitle, ...], AfterValidator(some)] | None = None
    networks: Annotated[tuple[Annotated[str, AfterValidator(network)], ...], AfterValidator(some)] | None = None
    certificate_names: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], AfterValidator(some)] | None = None
    sop_classes: Annotated[tuple[Annotated[str, AfterValidator(sop_class_uid)], ...], AfterValidator(some)] | None = None
    services: Annotated[tuple[Service, ...], AfterValidator(some)] = SERVICES
    associations_per_minute: int | None = Field(default=None, ge=1)
    """A STOW request is an association too, here and below. The console counts those that it takes apart from the ports."""
    megabytes_per_second: float | None = Field(default=None, gt=0)
    """Of 10^6 bytes, of all its associations together; who sends faster is made to wait."""
    maximum_associations: int | None = Field(default=None, ge=1)
    """At a time."""
    maximum_instance_bytes: int | None = Field(default=None, ge=1024)


class FolderSection(Section):
    """A watched folder: what is laid there is taken, and removed."""

    path: Path
    quiet_seconds: float = Field(default=2, gt=0)
    """A file whose size and time have not changed for so long is complete."""
    patience_seconds: float = Field(default=60, gt=0)
    """One that is cut off then, or has a hole, may be on its way still: it is judged when it has not changed for so long."""
    keep: bool = False
    """Move what was taken to `done` in the folder, instead of removing it."""


class DicomwebSection(Section):
    """STOW-RS (PS3.18 10.5): https with a client's certificate where [tls] has one for us, else http."""

    host: str = "127.0.0.1"
    """Address to listen on. The default is this machine only."""
    port: int | None = Field(default=None, ge=0, le=65535)
    """Where requests come to /dicom-web/studies; left out, none do."""
    maximum_requests: int = Field(default=32, ge=1)
    """At a time, in each ingest process."""
    maximum_body_bytes: int | None = Field(default=None, ge=1024)


class DatabaseSection(Section):
    url: DatabaseUrl = ""
    """Empty: SQLite in data_dir. PostgreSQL: postgresql://user@host/database."""
    unsafe: bool = False
    """Serve on a PostgreSQL that does not sync what it commits: a power cut may lose what was acknowledged."""


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


class RulesSection(Section):
    file: Path = Path("rules.yaml")
    """Taken at the first start; from then on the database has the rules (`gateway rules apply`)."""
    approval: bool = False
    """A version comes into force only when another person than its author approves or activates it."""


class DeliverySection(Section):
    pictures: bool = False
    """Results go out as pictures too (Secondary Capture): for viewers that show no segmentations and no reports."""
    structures: bool = False
    """Segmentations go out as contours too (RT Structure Set): for systems that plan radiotherapy."""
    retry_seconds: float = Field(default=10, gt=0)
    """Wait after the first failed attempt; it doubles with every further one."""
    retry_at_most_seconds: float = Field(default=3600, gt=0)
    late_hours: float = Field(default=4, gt=0)
    """A delivery without success for so long is told of; it is tried on."""
    report_hours: float = Field(default=24, gt=0)
    """A storage commitment that a peer has not reported after so long is asked for again; a later report counts all the same."""


class RetentionSection(Section):
    """When files go, in days after the last thing that happened to them; rows and the audit trail stay. Never before proof."""

    sources_days: float | None = Field(default=None, ge=0)
    """Instances whose series has come to its end: every result of it is proved, or there is none to wait for."""
    outputs_days: float | None = Field(default=None, ge=0)
    """Our objects that every peer of theirs has proved to hold."""
    shadow_days: float | None = Field(default=None, ge=0)
    """Those of jobs in the shadow that no person has released; they can go nowhere then."""
    headers_days: float | None = Field(default=None, ge=0)
    """What rules saw of a series, which a replay of rules reads."""
    pressure_free_bytes: int = Field(default=0, ge=0)
    """Below so much free space what may go does, the oldest first, before its days are over."""


class StoreSection(Section):
    folder: Path | None = None
    """Where the files are; by default data_dir/store. One folder for all processes that share a database."""
    keep_free_bytes: int = Field(default=1024**3, ge=0)
    """Below so much free space on the store's disk, senders are told to try again later (0xA700)."""
    behind_seconds: float = Field(default=30, gt=0)
    """They are told so too while what they were acknowledged waits longer than this to be written into the database."""


class LogSection(Section):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "console"] = "console"


def _ports_fit(dimse: DimseSection, info: ValidationInfo) -> DimseSection:
    tls = info.data.get("tls")
    if dimse.tls_port is not None and tls is not None and tls.certificate is None:
        raise ValueError("tls_port expects certificate, key and authorities in [tls]")
    if dimse.tls_port and dimse.tls_port == dimse.port:
        raise ValueError("tls_port expects another port than port has")
    return dimse


def _callers_fit(callers: tuple[CallerSection, ...], info: ValidationInfo) -> tuple[CallerSection, ...]:
    dimse = info.data.get("dimse", DimseSection(tls_port=0))
    check_names_once([*(caller.name for caller in callers), *dict.fromkeys(dimse.calling_ae_titles)], "callers")
    tls = info.data.get("tls", TlsSection())
    if dimse.tls_port is None and tls.certificate is None and any(caller.certificate_names for caller in callers):
        raise ValueError(
            "certificate_names expect tls_port in [dimse], or [dicomweb] with [tls]: without TLS there are no certificates"
        )
    return callers


def _folders_fit(folders: tuple[FolderSection, ...], info: ValidationInfo) -> tuple[FolderSection, ...]:
    data_dir = info.data.get("gateway", GatewaySection()).data_dir
    check_apart([data_dir, *(folder.path for folder in folders)])
    return folders


def _with_synthetic(tables: tuple[dict[str, Any], ...], info: ValidationInfo) -> tuple[dict[str, Any], ...]:
    """Where a synthetic study's results go when no test peer is named: beside the store, where all processes see it."""
    section = info.data.get("synthetic", SyntheticSection())
    if not section.every_minutes or section.peer:
        return tables
    store = info.data.get("store", StoreSection()).folder or info.data.get("gateway", GatewaySection()).data_dir / "store"
    return (*tables, {"name": SYNTHETIC, "protocol": "folder", "path": f"{store}-{SYNTHETIC}"})


class Config(Section):
    gateway: GatewaySection = GatewaySection()
    tls: TlsSection = TlsSection()
    dimse: Annotated[DimseSection, AfterValidator(_ports_fit)] = DimseSection()
    callers: Annotated[tuple[CallerSection, ...], AfterValidator(_callers_fit)] = ()
    """Who may come in: where there is any, or any of [dimse] calling_ae_titles, nobody else may."""
    folders: Annotated[tuple[FolderSection, ...], AfterValidator(_folders_fit)] = ()
    dicomweb: DicomwebSection = DicomwebSection()
    web: WebSection = WebSection()
    database: DatabaseSection = DatabaseSection()
    triton: TritonSection = TritonSection()
    completeness: CompletenessSection = CompletenessSection()
    priors: PriorsSection = PriorsSection()
    rules: RulesSection = RulesSection()
    delivery: DeliverySection = DeliverySection()
    audit: AuditSection = AuditSection()
    retention: RetentionSection = RetentionSection()
    store: StoreSection = StoreSection()
    log: LogSection = LogSection()
    alarms: AlarmsSection = AlarmsSection()
    silence: tuple[SilenceSection, ...] = ()
    tracing: TracingSection = TracingSection()
    synthetic: SyntheticSection = SyntheticSection()
    peers: Annotated[
        tuple[dict[str, Any], ...], AfterValidator(_with_synthetic), AfterValidator(_each_name_once), Field(validate_default=True)
    ] = ()
    """One table a peer: name, protocol, and the keys of that protocol (peers/<protocol>.py says which)."""
    notices: Annotated[tuple[dict[str, Any], ...], AfterValidator(_each_name_once)] = ()
    """One table for each who is told: name, protocol, the keys of all (notices/__init__.py) and of that protocol."""

    @property
    def database_url(self) -> str:
        url = self.database.url or f"sqlite:///{self.gateway.data_dir / 'gateway.db'}"
        return url.replace("postgresql://", "postgresql+psycopg://", 1)

    @property
    def store_folder(self) -> Path:
        return self.store.folder or self.gateway.data_dir / "store"

    @property
    def secrets_folder(self) -> Path:
        """The files that a peer may name which is added in the console or through REST."""
        return self.gateway.data_dir / "secrets"

    @property
    def policy(self) -> Policy:
        """The callers in their order, then those of whom only the calling AE title is asked."""
        titles = dict.fromkeys(self.dimse.calling_ae_titles)
        tables = [caller.model_dump(mode="json") for caller in self.callers]
        tables += [{"name": title, "calling_ae_title": [title]} for title in titles]
        ours = {"ae_title": self.dimse.ae_title, "stat_ae_titles": self.dimse.stat_ae_titles}
        return Policy.from_settings({**ours, "callers": tables})
