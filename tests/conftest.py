"""Fixtures that many tests share: databases of both kinds, the real PACS, the real Triton, the developers' data."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from hypothesis import settings

from gateway.db import Database, open_database
from gateway.engine import Queues
from tests.blank import blank, migrate
from tests.command_fixture import command
from tests.console_fixture import chromium, console
from tests.door_fixture import place
from tests.peers_fixture import instances, orthanc
from tests.postgres_fixture import OwnPostgres, own_cluster
from tests.sharing import pytest_xdist_make_scheduler
from tests.stow_fixture import web
from tests.watched_fixture import watched

__all__ = (
    "chromium",
    "command",
    "console",
    "instances",
    "orthanc",
    "place",
    "pytest_xdist_make_scheduler",
    "watched",
    "web",
)  # what stands in files of their own

ROOT = Path(__file__).parent.parent

# In CI the examples are the same in every run: what is found there can be found again. Elsewhere they are new each time.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")


def _folder(variable: str, default: str, what: str) -> Path:
    path = Path(os.environ.get(variable) or ROOT / default)
    if not path.is_dir():
        pytest.skip(f"{variable} names no folder with {what}: these tests are for those who have it")
    return path


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folders of real DICOM files (SOURCES.md in it says what each is)."""
    return _folder("GATEWAY_TEST_DATA", "../shared/data", "the developers' DICOM data")


@pytest.fixture(scope="session")
def weights() -> Path:
    return _folder("GATEWAY_TEST_WEIGHTS", "../shared/weights", "the developers' model weights")


def _postgres_programs() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)
    return found[0].parent if found else None


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL cluster of our own, on a socket in a folder of our own."""
    programs = _postgres_programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (Debian: postgresql)")
    folder = Path(tempfile.mkdtemp(prefix="gateway-pg-"))
    as_user = []
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres", "postgres")
        as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    data = folder / "data"
    subprocess.run(
        [*as_user, programs / "initdb", "-D", data, "-A", "trust", "-U", "postgres", "-E", "UTF8"],
        check=True,
        capture_output=True,
    )
    # Our processes are killed, this server is not: what it has not synced yet is not lost.
    options = f"-c fsync=off -c listen_addresses= -c unix_socket_directories={folder} -c max_connections=300"
    start = [*as_user, programs / "pg_ctl", "-D", data, "-w", "-l", folder / "log", "-o", options]
    subprocess.run([*start, "start"], check=True, capture_output=True)
    try:
        yield f"postgresql+psycopg://postgres@/postgres?host={folder}"
    finally:
        subprocess.run([*as_user, programs / "pg_ctl", "-D", data, "-m", "immediate", "stop"], check=False, capture_output=True)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def own_postgres() -> Iterator[OwnPostgres]:
    """A cluster that a test may stop."""
    with own_cluster() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def migrated_sqlite() -> Path:
    """A database file at the present schema, to be copied."""
    return blank()


@pytest.fixture(scope="session")
def migrated_postgres(postgres: str) -> str:
    """The name of a database at the present schema, to be a template."""
    with _administrator(postgres) as connection:
        connection.execute("CREATE DATABASE migrated")
    migrate(postgres.replace("/postgres?", "/migrated?"))
    return "migrated"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database at the present schema without rows, on SQLite and on PostgreSQL."""
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("migrated_sqlite"), tmp_path / "gateway.db")
        yield f"sqlite:///{tmp_path / 'gateway.db'}"
        return
    server, template = request.getfixturevalue("postgres"), request.getfixturevalue("migrated_postgres")
    name = f"gateway_{uuid4().hex[:12]}"
    with _administrator(server) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    yield server.replace("/postgres?", f"/{name}?")
    with _administrator(server) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def db(database_url: str) -> Iterator[Database]:
    db = open_database(database_url)
    yield db
    db.kw["bind"].dispose()


@pytest.fixture
def queues(database_url: str) -> Iterator[Queues]:
    queues = Queues(database_url)
    yield queues
    queues.close()


def _administrator(server: str) -> psycopg.Connection:
    return psycopg.connect(server.replace("+psycopg", ""), autocommit=True)


@pytest.fixture(scope="session")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The gRPC address of a real Triton that serves our models and the tests' own."""
    from gateway.errors import ConfigError
    from gateway.inference.tritonserver import TritonServer

    log = tmp_path_factory.mktemp("triton") / "triton.log"
    server = TritonServer([ROOT / "triton_models", ROOT / "tests" / "models"], log_file=log, environment=ROOT / ".venv-triton")
    try:
        server.start()
    except ConfigError as error:
        pytest.skip(str(error))
    yield server.url
    server.stop()
