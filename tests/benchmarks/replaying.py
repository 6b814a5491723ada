"""How long a draft takes over 10,000 past series: `python -m tests.benchmarks.replaying`.

Each series has a kept file of 200 slices and its row; 40 rules are in force and the draft changes one of them. Reading,
decompressing and matching count, and the database's part.
"""

import argparse
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import insert

from gateway.acts.replay import replay
from gateway.app import upgrade
from gateway.db import open_database
from gateway.decisions.rules import load
from gateway.rows.tables import Series, SeriesState, Study
from gateway.work.kept import Keep, encoded
from tests.synthetic import ct_series

NOW = datetime(2026, 3, 2, tzinfo=UTC)
PARTS = ("CHEST", "HEAD", "ABDOMEN", "PELVIS")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--series", type=int, default=10_000)
    parser.add_argument("--slices", type=int, default=200)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gateway-replay-") as name:
        folder = Path(name)
        url = f"sqlite:///{folder / 'gateway.db'}"
        db = open_database(url)
        upgrade(url, db)
        keep = Keep(folder / "headers")
        fill(db, keep, arguments.series, arguments.slices)
        started = time.perf_counter()
        found = replay(db, keep, before=rules(20), after=rules(4), since=NOW - timedelta(days=7))
        seconds = time.perf_counter() - started
        size = sum(path.stat().st_size for path in (folder / "headers").rglob("*") if path.is_file())
        db.kw["bind"].dispose()
    print(f"{found.series} series, {found.unkept} not kept, {found.new_jobs + found.lost_jobs} jobs differ: {seconds:.2f} s")
    print(f"{size / max(1, found.series):.0f} bytes a series on disk")


def rules(slices: int):
    one = "  - {{name: r{0}, when: {{all: [{{attribute: Modality, is: CT}}, {{attribute: BodyPartExamined, one_of: [{1}, X{0}]}}, {{attribute: SliceThickness, at_most: {0}}}, {{attribute: SeriesDescription, matches: '(?i)ax'}}, {{fact: slices, at_least: {2}}}]}}, pipeline: p{0}, send_to: [pacs]}}\n"
    text = "".join(one.format(n, PARTS[n % 4], slices * 20 if n == 4 else 20) for n in range(40))
    return load("rules:\n" + text, pipelines=[f"p{n}" for n in range(40)], peers=["pacs"])


def fill(db, keep: Keep, series: int, slices: int) -> None:
    blobs = []
    for part in PARTS:
        headers = ct_series(slices, 8, 8, BodyPartExamined=part)
        known = {"slices": slices, "instances": slices, "orientation": "axial", "regular": True, "spacing_mm": 2.5}
        blobs.append(encoded(headers, known))
    rows = []
    for number in range(series):
        uid = f"2.25.{number + 10**30}"
        path = keep.path(uid, 1)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(blobs[number % len(blobs)])
        times = dict.fromkeys(("first_received_at", "last_received_at", "due_at", "complete_at"), NOW - timedelta(seconds=number))
        rows.append(
            {"series_instance_uid": uid, "study_instance_uid": "1.2", "modality": "CT", "state": SeriesState.COMPLETE, **times}
        )
    with db.begin() as session:
        session.add(Study(study_instance_uid="1.2", patient_name="", patient_id="", patient_birth_date="", accession_number="", first_received_at=NOW))  # fmt: skip
        session.flush()
        session.execute(insert(Series), rows)


if __name__ == "__main__":
    main()
