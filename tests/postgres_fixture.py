"""A PostgreSQL cluster of a test's own, which it may stop and start."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.app import upgrade
from gateway.db import open_database


@dataclass(frozen=True)
class OwnPostgres:
    """A cluster that a test may stop."""

    folder: Path
    programs: Path
    as_user: tuple[str, ...]

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://postgres@/postgres?host={self.folder}"

    def run(self, program: str, *arguments: object) -> None:
        command = [*self.as_user, str(self.programs / program), "-D", str(self.folder / "data"), *map(str, arguments)]
        subprocess.run(command, check=True, capture_output=True, timeout=180)

    def start(self) -> None:
        options = f"-c fsync=off -c listen_addresses= -c unix_socket_directories={self.folder}"
        self.run("pg_ctl", "-w", "-l", self.folder / "log", "-o", options, "start")

    def stop(self) -> None:
        self.run("pg_ctl", "-w", "-m", "fast", "stop")


@contextmanager
def own_cluster() -> Iterator[OwnPostgres]:
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)
    if not programs:
        pytest.skip("PostgreSQL is not installed (Debian: postgresql)")
    folder = Path(tempfile.mkdtemp(prefix="gateway-pg-"))  # pytest's own folder is closed to the user that PostgreSQL wants
    as_user: tuple[str, ...] = ()
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres", "postgres")
        as_user = ("setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups")
    cluster = OwnPostgres(folder, programs[0].parent, as_user)
    cluster.run("initdb", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-sync")
    cluster.start()
    try:
        db = open_database(cluster.url)
        upgrade(cluster.url, db)
        db.kw["bind"].dispose()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder)
