"""Filing: whatever fails on the way, what a door promised is filed, and its folder goes once."""

import shutil
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from gateway import filing
from gateway.doors import journal
from gateway.doors.entry import Ended, Full, Kept
from gateway.filing import Books, Filing
from gateway.receive import Found
from gateway.store import Store
from tests.door_fixture import Place, scanner
from tests.synthetic import ct_series


class Failing:
    """Books of a database that is away for the first call of `what`."""

    def __init__(self, what: str) -> None:
        self.what, self.received, self.forgotten = what, list[Found](), list[str]()

    def _call(self, name: str) -> None:
        if self.what == name:
            self.what = ""
            raise ConnectionError

    def books(self) -> Books:
        def receive(found: list[Found]) -> None:
            self._call("receive")
            self.received.extend(found)

        def forget(names: list[str]) -> None:
            self._call("forget")
            self.forgotten.extend(names)

        return Books(receive, dict, forget, lambda _: self._call("lost"), lambda _: None)


@pytest.mark.parametrize("what", ["receive", "lost", "forget"])
def test_a_database_that_is_away_at_any_step_delays_the_end_of_a_folder_and_no_more(tmp_path: Path, what: str) -> None:
    place = Place(f"sqlite:///{tmp_path / 'gateway.db'}", tmp_path)
    origin = scanner()
    for ds in ct_series(2):
        place.bring(ds, origin)
    (segment,) = place.folder.glob("*.journal")
    failing = Failing(what)
    mine = Filing(place.folder, failing.books())
    with pytest.raises(ConnectionError):
        mine.finish()

    mine.finish()

    assert len(failing.received) == 2
    assert failing.forgotten == [segment.stem]
    assert not place.folder.exists()
    place.close()


def test_that_there_is_no_room_is_told_in_a_sentence_with_the_folder_once_a_minute(tmp_path: Path, monkeypatch) -> None:
    place = Place(f"sqlite:///{tmp_path / 'gateway.db'}", tmp_path)
    place.bring(ct_series(1)[0], scanner())
    gone = Store(tmp_path / "gone")
    shutil.rmtree(tmp_path / "gone")
    books = replace(Failing("").books(), receive=lambda found: gone.file(lies for lies, _ in found))
    mine = Filing(place.folder, books)

    with capture_logs() as logs:
        for _ in range(3):
            with filing.told("receive.failed", mine):
                mine.file()
        monkeypatch.setattr(filing, "_TELL_SECONDS", 0.0)
        with filing.told("receive.failed", mine):
            mine.file()

    reason = f"{tmp_path / 'gone'} cannot be written: no such file or directory"
    assert logs == [{"event": "receive.failed", "log_level": "error", "reason": reason}] * 2
    place.close()


def test_what_an_association_brought_is_filed_in_its_order_whatever_segments_it_lies_in(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(journal, "FULL", 5000)
    monkeypatch.setattr(filing, "_BATCH", 2)
    place = Place(f"sqlite:///{tmp_path / 'gateway.db'}", tmp_path)
    origin, series = scanner(), ct_series(12)
    for ds in series:
        place.now += timedelta(milliseconds=1)
        place.bring(ds, origin)
    place.now += timedelta(milliseconds=1)
    place.door.end(origin, whole=True)
    failing = Failing("nothing")
    assert len(list(place.folder.glob("*.journal"))) > 3

    Filing(place.folder, failing.books()).finish()

    told = [one for _, one in failing.received if not isinstance(one, Full)]
    assert [one.incoming.sop_instance_uid for one in told[:-1]] == [ds.SOPInstanceUID for ds in series]
    assert isinstance(told[-1], Ended)
    place.close()


def test_an_association_ends_in_the_segment_that_its_last_instance_has_filled(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(journal, "FULL", 1000)
    place = Place(f"sqlite:///{tmp_path / 'gateway.db'}", tmp_path)
    origin = scanner()
    place.bring(ct_series(1)[0], origin)

    place.door.end(origin)

    assert [type(one) for _, one in place.promised()] == [Kept, Ended]
    assert len(list(place.folder.glob("*.journal"))) == 1
    place.close()
