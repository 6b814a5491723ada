"""A PostgreSQL of our own that is stopped and started again under those who use it."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

_MOST_CONNECTIONS = 400


@dataclass(frozen=True)
class Cluster:
    """On a socket in `folder`. It syncs nothing, which only matters where the machine itself goes down."""

    folder: Path
    programs: Path
    as_user: tuple[str, ...]

    def create(self, name: str) -> str:
        """A new database; its URL."""
        with psycopg.connect(f"postgresql://postgres@/postgres?host={self.folder}", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return f"postgresql://postgres@/{name}?host={self.folder}"

    def control(self, *arguments: str, check: bool = True) -> None:
        command = [
            *self.as_user,
            self.programs / "pg_ctl",
            "-D",
            self.folder / "data",
            "-w",
            "-l",
            self.folder / "log",
            *arguments,
        ]
        subprocess.run(command, check=check, capture_output=True)

    def restart(self, mode: str) -> None:
        """`mode`: fast (connections are ended, all is written) or immediate (as after a crash: it recovers from its log)."""
        self.control("-m", mode, "restart")


@contextmanager
def running_cluster() -> Iterator[Cluster]:
    """Raises FileNotFoundError where PostgreSQL is not installed."""
    cluster = _made(Path(tempfile.mkdtemp(prefix="gateway-storm-")))
    try:
        cluster.control("-o", _options(cluster.folder), "start")
        yield cluster
    finally:
        cluster.control("-m", "immediate", "stop", check=False)
        shutil.rmtree(cluster.folder, ignore_errors=True)


def programs() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)
    if not found:
        raise FileNotFoundError("PostgreSQL is not installed (Debian: postgresql)")
    return found[0].parent


def _made(folder: Path) -> Cluster:
    as_user: tuple[str, ...] = ()
    if os.geteuid() == 0:  # it does not run as root
        shutil.chown(folder, "postgres", "postgres")
        as_user = ("setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups")
    initdb = [*as_user, programs() / "initdb", "-D", folder / "data", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-sync"]
    subprocess.run(initdb, check=True, capture_output=True)
    return Cluster(folder, programs(), as_user)


def _options(folder: Path) -> str:
    return f"-c fsync=off -c listen_addresses= -c unix_socket_directories={folder} -c max_connections={_MOST_CONNECTIONS}"
