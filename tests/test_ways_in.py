"""The ways into a whole gateway: several processes, DICOM TLS, STOW-RS, a watched folder; and doors that close and open by themselves."""

import ssl
import threading
from pathlib import Path

import pytest
from pydicom import Dataset
from pynetdicom import AE
from sqlalchemy import func, select

from gateway.peers.dicomweb import peer
from gateway.rows.tables import Association, Instance, Series
from gateway.rows.trail import AuditEvent
from tests.certificates import Authority, client_context
from tests.ports import free_port
from tests.scanner_fixture import Scanner, c_store
from tests.synthetic import ct_series, part10
from tests.world import World, send

QUIET = {"completeness": {"quiet_seconds": 60}}


def world(folder: Path, database_url: str, **settings: object) -> World:
    return World(folder / "world", database_url, f"127.0.0.1:{free_port()}", settings=QUIET | settings)


def counted(one: World, table: type) -> int:
    with one.database() as db, db() as session:
        return session.scalar(select(func.count()).select_from(table))


def acts(one: World) -> list[str]:
    with one.database() as db, db() as session:
        return list(session.scalars(select(AuditEvent.act).order_by(AuditEvent.id)))


def test_one_series_over_eight_associations_and_two_processes_counts_right(database_url: str, tmp_path: Path) -> None:
    series = ct_series(48)
    with world(tmp_path, database_url, dimse={"processes": 2}) as one:
        one.start()
        one.wait_until(lambda: len(one.ingests) == 2)
        parts = [threading.Thread(target=send, args=(series[n::8], one.port), kwargs={"calling": f"CT{n % 2}"}) for n in range(8)]
        for part in parts:
            part.start()
        for part in parts:
            part.join()
        one.wait_until(lambda: counted(one, Instance) == 48)

        assert counted(one, Series) == 1
        assert counted(one, Association) == 8
        assert acts(one).count("instance.received") == 48
        assert "instance.repeated" not in acts(one)


def test_the_same_instance_ten_times_at_once_is_one_instance(database_url: str, tmp_path: Path) -> None:
    (ds,) = ct_series(1)
    statuses: list[int] = []
    with world(tmp_path, database_url, dimse={"processes": 2}) as one:
        one.start()
        threads = [threading.Thread(target=lambda: statuses.extend(send([ds], one.port))) for _ in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        one.wait_until(lambda: len(acts_of_instances(one)) == 10)

        assert statuses == [0x0000] * 10
        assert sorted(acts_of_instances(one)) == ["instance.received"] + ["instance.repeated"] * 9
        assert counted(one, Instance) == 1


def acts_of_instances(one: World) -> list[str]:
    return [act for act in acts(one) if act.startswith("instance.")]


def test_a_scanner_sends_by_tls_with_a_certificate_that_fits_its_ae_title(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    server, ours, others = authority.issue("gateway"), authority.issue("ct1"), authority.issue("ct2")
    port = free_port()
    settings = {
        "dimse": {"tls_port": port},
        "tls": {"certificate": str(server.certificate), "key": str(server.key), "authorities": str(authority.certificate)},
        "callers": {},
    }
    with world(tmp_path, f"sqlite:///{tmp_path}/gateway.db", **settings) as one:
        callers = '[[callers]]\nname = "ct1"\ncalling_ae_title = "CT1"\ncertificate_names = ["ct1"]\n'
        one.config.write_text(one.config.read_text().replace("[callers]\n", callers))
        one.start()
        (ds,) = ct_series(1)

        def store(context: ssl.SSLContext) -> int:
            ae = AE("CT1")
            ae.add_requested_context(ds.SOPClassUID, ds.file_meta.TransferSyntaxUID)
            association = ae.associate("127.0.0.1", port, ae_title="AIGATEWAY", tls_args=(context, "localhost"))
            if not association.is_established:
                return -1
            status = association.send_c_store(ds).Status
            association.release()
            return status

        assert store(client_context(authority, ours)) == 0x0000
        assert store(client_context(authority, others)) == -1
        with pytest.raises(ConnectionError):
            send([ds], one.port)
        one.wait_until(lambda: one.held(ds))
        one.wait_until(lambda: acts(one).count("association.rejected") == 2)


def test_an_instance_that_is_stored_over_the_web_is_the_one_that_came_by_c_store(database_url: str, tmp_path: Path) -> None:
    first, second = ct_series(2)
    path = tmp_path / "second.dcm"
    path.write_bytes(part10(second))
    port = free_port()
    with world(tmp_path, database_url, dicomweb={"port": port}) as one:
        one.start()
        assert send([first, second], one.port) == [0x0000] * 2

        web = peer({"name": "gateway", "url": f"http://127.0.0.1:{port}/dicom-web"})
        assert web.send(path).status == 0x0000
        one.wait_until(lambda: "instance.repeated" in acts(one))

        assert counted(one, Instance) == 2
        assert "instance.version" not in acts(one)


def test_files_that_are_laid_into_a_watched_folder_are_taken_and_what_is_no_instance_is_laid_aside(tmp_path: Path) -> None:
    box = tmp_path / "box"
    box.mkdir()
    series = ct_series(3)
    with world(tmp_path, f"sqlite:///{tmp_path}/gateway.db", folders={}) as one:
        text = one.config.read_text().replace(
            "[folders]\n", f'[[folders]]\npath = "{box}"\nquiet_seconds = 0.2\npatience_seconds = 0.5\n'
        )
        one.config.write_text(text)
        one.start()
        for n, ds in enumerate(series):
            (box / f"{n}.dcm").write_bytes(part10(ds))
        (box / "notes.txt").write_text("not an instance")

        one.wait_until(lambda: counted(one, Instance) == 3)
        one.wait_until(lambda: [path.name for path in box.iterdir()] == ["refused"])

        assert (box / "refused" / "notes.txt").read_text() == "not an instance"


def test_a_database_that_is_away_closes_the_doors_and_they_open_by_themselves(tmp_path: Path) -> None:
    database = tmp_path / "gateway.db"
    series = ct_series(4)
    with world(tmp_path, f"sqlite:///{database}", store={"behind_seconds": 5.0}) as one:
        one.start()
        assert send(series[:1], one.port) == [0x0000]
        one.wait_until(lambda: one.held(series[0]))
        with one.database() as db, db() as session:
            session.connection().exec_driver_sql("BEGIN IMMEDIATE")
            assert send(series[1:2], one.port) == [0x0000]
            one.wait_until(lambda: send(series[2:3], one.port) == [0xA700], 90)
            session.rollback()

        one.wait_until(lambda: send(series[2:], one.port) == [0x0000] * 2, 90)
        one.wait_until(lambda: all(map(one.held, series)), 90)


def test_after_a_kill_the_port_is_free_for_the_next_start_though_a_scanner_holds_on_to_it(tmp_path: Path) -> None:
    series: list[Dataset] = ct_series(2)
    with world(tmp_path, f"sqlite:///{tmp_path}/gateway.db") as one:
        one.start()
        ae = AE("CT1")
        ae.add_requested_context(series[0].SOPClassUID, series[0].file_meta.TransferSyntaxUID)
        association = ae.associate("127.0.0.1", one.port, ae_title="AIGATEWAY")
        assert association.send_c_store(series[0]).Status == 0x0000

        one.kill()
        one.start()

        association.abort()
        assert send(series[1:], one.port) == [0x0000]
        one.wait_until(lambda: all(map(one.held, series)))


@pytest.mark.parametrize("whose", ["the gateway", "the ingest process"])
def test_a_death_in_the_middle_of_an_instance_leaves_nothing_of_it(database_url: str, tmp_path: Path, whose: str) -> None:
    (ds,) = ct_series(1)
    with world(tmp_path, database_url) as one:
        one.start()
        (ingest,) = one.ingests
        with Scanner(one.port) as scanner:
            scanner.associate()
            whole = c_store(ds)
            scanner.send(whole[: len(whole) // 2])
            one.wait_until(lambda: any(path.stat().st_size > 1000 for path in one.store.incoming.rglob("*.journal")))
            if whose == "the gateway":
                one.kill()
                one.start()
            else:
                ingest.kill()
                one.wait_until(lambda: [new for new in one.ingests if new.pid != ingest.pid])
        assert counted(one, Instance) == 0

        assert send([ds], one.port) == [0x0000]
        one.wait_until(lambda: one.held(ds))
        assert acts(one).count("instance.received") == 1
        assert "instance.missing" not in acts(one)
