"""How fast a series comes out of Orthanc: our retrieval, dicomweb-client, and C-MOVE, in turns.

    python -m tests.benchmarks.pull [--slices 300] [--rounds 5] [--folder FOLDER]

One series of CT slices of 512 x 512 lies in a real Orthanc on this machine. Ours ends when the last instance is durable behind a
door (a sync for each, as when it is sent to us); dicomweb-client's `retrieve_series` ends with data sets in memory, and
DCMTK's movescu with files that nobody has synced, which storescp wrote. Only the ratios of one run mean something.
"""

import argparse
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from dicomweb_client import DICOMwebClient

from gateway.doors.door import Door
from gateway.fetching.take import terms
from gateway.ingest.retrieve import retrieve
from gateway.peers.dicomweb import peer
from tests.benchmarks.measure import fair_start
from tests.benchmarks.report import Figures, Report
from tests.peers_fixture import running_orthanc, running_storescp
from tests.ports import free_port
from tests.synthetic import ct_series
from tests.world import send

_CONNECTIONS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where to write; its disk is what is measured")
    options = parser.parse_args()
    with TemporaryDirectory(dir=options.folder) as name, ExitStack() as stack:
        folder = Path(name)
        moved = folder / "moved"
        moved.mkdir()
        target = stack.enter_context(running_storescp(moved))
        (folder / "orthanc").mkdir()
        modalities = {"gateway": ["AIGATEWAY", "127.0.0.1", free_port()], "target": ["TARGET", "127.0.0.1", target]}
        orthanc = stack.enter_context(running_orthanc(folder / "orthanc", DicomModalities=modalities))
        series = ct_series(options.slices, 512, 512)
        assert set(send(series, orthanc.dicom_port, calling="AIGATEWAY", called="ORTHANC")) == {0}
        study, uid = series[0].StudyInstanceUID, series[0].SeriesInstanceUID
        ways: dict[str, Callable[[], int]] = {
            "gateway, the series": lambda: ours(folder, orthanc.url, study, uid, at_once=True),
            "gateway, by instance": lambda: ours(folder, orthanc.url, study, uid, at_once=False),
            "dicomweb-client": lambda: len(DICOMwebClient(f"{orthanc.url}/dicom-web").retrieve_series(study, uid)),
            "movescu": lambda: move(moved, orthanc.dicom_port, study, uid),
        }
        megabytes = sum(len(ds.PixelData) for ds in series) / 1e6
        rounds: dict[str, list[Figures]] = {way: [] for way in ways}
        for turn in range(options.rounds):
            order = [*ways][turn % len(ways) :] + [*ways][: turn % len(ways)]
            for way in order:
                fair_start(700, 3)
                began = time.monotonic()
                came = ways[way]()
                seconds = time.monotonic() - began
                rounds[way].append({"MB/s": megabytes / seconds, "seconds": seconds, "missing": options.slices - came})
        report = Report()
        report.tell("pull", f"{options.slices} CT slices of 512 x 512 out of Orthanc", rounds)
        report.compare("pull", "MB/s", "gateway, the series", {"dicomweb-client": 1, "movescu": 1})


def ours(folder: Path, url: str, study: str, series: str, *, at_once: bool) -> int:
    """The instances that are durable now."""
    archive = peer({"name": "archive", "url": f"{url}/dicom-web"})
    with TemporaryDirectory(dir=folder) as name, archive.retrieving(_CONNECTIONS) as retrieving:
        wanted = list(archive.listing(study, series))
        door = Door(Path(name), clock=lambda: datetime.now(UTC), keep_free_bytes=0)
        try:
            found = retrieve(
                wanted, lambda uid: retrieving(study, series, uid), door=door, peer="archive", terms=terms(1 << 30),
                connections=_CONNECTIONS, at_once=at_once,
            )  # fmt: skip
        finally:
            door.close()
        return len(found.taken)


def move(moved: Path, port: int, study: str, series: str) -> int:
    """C-MOVE to storescp; the files that are there then, which are taken away."""
    keys = ["-k", "QueryRetrieveLevel=SERIES", "-k", f"StudyInstanceUID={study}", "-k", f"SeriesInstanceUID={series}"]
    command = ["movescu", "-S", "-aet", "AIGATEWAY", "-aec", "ORTHANC", "-aem", "TARGET", *keys, "127.0.0.1", str(port)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    files = list(moved.iterdir())
    for file in files:
        file.unlink()
    return len(files)


if __name__ == "__main__":
    main()
