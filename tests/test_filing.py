"""Filing: whatever fails on the way, what a door promised is filed, and its folder goes once."""

from pathlib import Path

import pytest

from gateway.filing import Books, Filing
from gateway.receive import Found
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

        return Books(receive, dict, forget, lambda _: self._call("ended"), lambda _: None)


@pytest.mark.parametrize("what", ["receive", "ended", "forget"])
def test_a_database_that_is_away_at_any_step_delays_the_end_of_a_folder_and_no_more(tmp_path: Path, what: str) -> None:
    place = Place(f"sqlite:///{tmp_path / 'gateway.db'}", tmp_path)
    origin = scanner()
    for ds in ct_series(2):
        place.bring(ds, origin)
    (segment,) = place.folder.glob("*.journal")
    failing = Failing(what)
    filing = Filing(place.folder, failing.books())
    with pytest.raises(ConnectionError):
        filing.finish()

    filing.finish()

    assert len(failing.received) == 2
    assert failing.forgotten == [segment.stem]
    assert not place.folder.exists()
    place.close()
