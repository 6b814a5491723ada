"""A watched folder with a real door behind it, what is laid there, and what became of it."""

import time
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import pytest
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
)

from gateway.doors.door import Door
from gateway.doors.entry import Kept, promise
from gateway.doors.journal import entries, segments
from gateway.ingest import Terms
from gateway.ingest.folder import Folder
from tests.peers_fixture import data_set
from tests.synthetic import ct_series, meta_changed, part10

SERIES = ct_series(4, 32, 32)
FILES = [part10(ds) for ds in SERIES]
UIDS = [str(ds.SOPInstanceUID) for ds in SERIES]
MEGABYTE = 1_000_000


@dataclass
class Watched:
    """A watched folder with a door behind it; the journal tells what it let in."""

    path: Path
    journal: Path
    door: Door
    folder: Folder

    def entries(self, kind):
        found = [promise(one.record) for segment in segments(self.journal) for one in entries(segment, 0)]
        return sorted((one for one in found if isinstance(one, kind)), key=lambda one: one.at)

    def uids(self):
        return [one.incoming.sop_instance_uid for one in self.entries(Kept)]

    def held(self):
        """The bytes of each kept data set by its SOP Instance UID."""
        return {
            one.record["incoming"]["sop_instance_uid"]: data_set(
                one.segment.read_bytes()[one.data_at : one.data_at + one.data_size]
            )
            for segment in segments(self.journal)
            for one in entries(segment, 0)
            if one.record["kind"] == "kept"
        }

    def lay(self, name, content):
        """Written under a name that is ignored, then renamed, as exporters should."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.parent / f".{path.name}"
        unfinished.write_bytes(content)
        return unfinished.rename(path)

    def lies(self):
        return sorted(str(path.relative_to(self.path)) for path in self.path.rglob("*") if not path.is_dir())

    def reason(self, name):
        self.wait(lambda: (self.path / "refused" / name).exists())
        told = (self.path / "refused" / f"{name}.reason.txt").read_text().splitlines()
        assert told[0] == "Not taken:"
        return told[1:]

    def wait(self, condition):
        end = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < end, f"waited in vain; there lie {self.lies()}"
            time.sleep(0.01)

    def taken(self, count=1):
        self.wait(lambda: len(self.entries(Kept)) == count)

    def empty(self):
        self.wait(lambda: not self.lies())

    def some_looks(self):
        """Another instance comes afterwards, twice: what was not taken by then is not going to be. All others that were taken."""
        for n in range(2):
            self.lay(f"looked{n}", FILES[3])
            self.wait(lambda n=n: self.uids().count(UIDS[3]) == n + 1)
        self.wait(lambda: not [name for name in self.lies() if name.startswith("looked")])
        return [uid for uid in self.uids() if uid != UIDS[3]]


@contextmanager
def watching(folder, *, door_of=Door, make=True, sop_classes=(CTImageStorage,), largest=MEGABYTE, **settings):
    path, journal = folder / "watched", folder / "door"
    for one in (path, journal) if make else (journal,):
        one.mkdir(exist_ok=True)
    door = door_of(journal, clock=lambda: datetime.now(UTC), keep_free_bytes=0)
    terms = Terms(sop_classes, [ExplicitVRLittleEndian, ImplicitVRLittleEndian], largest)
    quick = {"quiet_seconds": 0.1, "patience_seconds": 0.2, "look_seconds": 0.02, "retry_seconds": 0.2}
    ingest = Folder(path, door=door, terms=terms, **{**quick, **settings})
    try:
        yield Watched(path, journal, door, ingest)
    finally:
        ingest.close()
        door.close()


@pytest.fixture
def watched(tmp_path):
    with watching(tmp_path) as running:
        yield running


def zipped(*contents, compression=zipfile.ZIP_DEFLATED, change=lambda infos: None):
    """A ZIP with these entries, each a content or (name, content); `change` is done to the directory before it is written."""
    file = BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for n, content in enumerate(contents):
            name, content = content if isinstance(content, tuple) else (f"IM{n}", content)
            archive.writestr(name, content)
        change(archive.infolist())
    return file.getvalue()


DICOMDIR = meta_changed(FILES[0], MediaStorageSOPClassUID=MediaStorageDirectoryStorage)
