"""Hosts as network namespaces, PostgreSQL between them over TCP: one whose cable is pulled loses its work to the other.

Needs root and a kernel with network namespaces and veth; elsewhere it is skipped, and says so.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.rows.tables import JobState
from tests.ports import free_port
from tests.postgres_fixture import OwnPostgres
from tests.synthetic import ct_series
from tests.test_machines import PATIENT, PATIENT_RULES, RECEIVE, WORK, assert_done_once
from tests.world import World, relay

SLICES = 4
SOON = """\
from gateway.machine import liveness
liveness.GIVES_UP = ("tcp_keepalives_idle = 3", "tcp_keepalives_interval = 1", "tcp_keepalives_count = 3", "tcp_user_timeout = 6000")
liveness.PATIENCE |= {"keepalives_idle": 3, "keepalives_interval": 1, "keepalives_count": 3, "tcp_user_timeout": 6_000}
"""
"""After what silence PostgreSQL gives a host up, and the host PostgreSQL: 6 seconds, not 21."""


@dataclass(frozen=True)
class Cable:
    """From this machine (`address`) to a namespace that stands for another."""

    namespace: str
    link: str
    address: str

    def pull(self) -> None:
        ip("link", "set", self.link, "down")

    def plug(self) -> None:
        ip("link", "set", self.link, "up")

    @property
    def run(self) -> tuple[str, ...]:
        return ("ip", "netns", "exec", self.namespace)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=20)


@pytest.fixture
def cables() -> Iterator[list[Cable]]:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("needs root and iproute2 for network namespaces")
    with ExitStack() as stack:
        made = []
        for number in (1, 2):
            cable = Cable(f"gw-{os.getpid()}-{number}", f"gw{os.getpid() % 100000}v{number}", f"10.213.{number}.1")
            try:
                ip("netns", "add", cable.namespace)
                stack.callback(ip, "netns", "delete", cable.namespace)  # its end of the cable goes too
                ip("link", "add", cable.link, "type", "veth", "peer", "name", "eth0", "netns", cable.namespace)
            except subprocess.CalledProcessError as error:
                pytest.skip(f"no network namespaces or no veth here: {error.stderr.decode().strip()}")
            ip("address", "add", f"{cable.address}/24", "dev", cable.link)
            ip("-n", cable.namespace, "address", "add", f"10.213.{number}.2/24", "dev", "eth0")
            for link in ("eth0", "lo"):
                ip("-n", cable.namespace, "link", "set", link, "up")
            cable.plug()
            made.append(cable)
        yield made


def listening(cluster: OwnPostgres, cables: list[Cable]) -> None:
    """PostgreSQL, on our ends of the cables only."""
    cluster.stop()
    with (cluster.folder / "data" / "pg_hba.conf").open("a") as rules:
        rules.write("host all all 10.213.0.0/16 trust\n")
    addresses = ",".join(cable.address for cable in cables)
    options = f"-c fsync=off -c listen_addresses={addresses} -c unix_socket_directories={cluster.folder}"
    cluster.run("pg_ctl", "-w", "-l", cluster.folder / "log", "-o", options, "start")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_host_that_is_cut_off_loses_its_work_to_another_and_writes_nothing_twice_when_it_is_back(
    cables: list[Cable], own_postgres: OwnPostgres, tmp_path: Path, triton: str
) -> None:
    """No end of a connection comes to PostgreSQL: it has to find out by itself that the host, and its lock with it, is gone."""
    listening(own_postgres, cables)
    port, pacs = free_port(), tmp_path / "pacs"
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines" / "patient.py").write_text(PATIENT.replace("GO", str(tmp_path / "go")))
    pacs.mkdir()

    def host(
        name: str, url: str, triton_at: str, arguments: tuple[str, ...], prefix: tuple[str, ...] = (), but: str = ""
    ) -> World:
        settings = {
            "store": {"folder": str(tmp_path / "store"), "keep_free_bytes": 0},
            "gateway": {
                "data_dir": str(tmp_path / name / "var"),
                "pipelines": [str(Path(__file__).parent / "pipelines"), str(tmp_path / "pipelines")],
            },
        }
        peer = {"name": "pacs", "protocol": "folder", "path": str(pacs)}
        return World(
            tmp_path / name, url, triton_at, (peer,), rules=PATIENT_RULES, settings=settings, arguments=arguments, prefix=prefix,
            but=but,
        )  # fmt: skip

    def there(name: str, cable: Cable) -> World:
        url = f"postgresql+psycopg://postgres@{cable.address}/postgres"
        return host(name, url, f"{cable.address}:{port}", WORK, cable.run, SOON)

    first, second = cables
    with (
        relay(port, triton, first.address),
        relay(port, triton, second.address),
        host("door", own_postgres.url, triton, RECEIVE) as door,
        there("one", first) as one,
        there("other", second) as other,
    ):
        door.start()
        one.start()
        door.send(ct_series(SLICES))
        door.wait_until(lambda: [job.state for job in door.jobs()] == [JobState.RUNNING])
        other.start()

        first.pull()
        (tmp_path / "go").touch()
        door.wait_settled(seconds=60)
        assert_done_once(door, pacs, ct_series(SLICES))
        assert other.logged("executor.dead")

        first.plug()
        later = ct_series(SLICES, seed=1)
        door.send(later)
        door.wait_settled(2)
        assert one.stop() == 0
        assert_done_once(door, pacs, ct_series(SLICES), later)
