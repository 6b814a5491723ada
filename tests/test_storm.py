"""The storm of `make bench-load`, small: its reckoning must find nothing, and must find what is not as it should be."""

import random
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select, update

from gateway.rows.tables import Delivery, Instance, Job
from tests.benchmarks.cluster import programs
from tests.benchmarks.fleet import Site, surroundings
from tests.benchmarks.mixture import samples
from tests.benchmarks.reckoning import Findings, reckon
from tests.benchmarks.storm import Options, Outcome, storm

OPTIONS = Options(studies=8, kills=2, database_restarts=1, receivers=2, workers=1, seed=1, quiet_seconds=5, still_seconds=60)


@pytest.fixture(scope="module")
def survived(tmp_path_factory: pytest.TempPathFactory, triton: str) -> Iterator[tuple[Site, Outcome]]:
    """A storm that is over; database, store and PACS are there still."""
    try:
        programs()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("storm")
    with surroundings(folder, triton) as (cluster, address, pacs):
        site = Site(folder, cluster.create("storm"), address, pacs, OPTIONS.quiet_seconds)
        yield site, storm(OPTIONS, folder, cluster, site)


@pytest.mark.slow
def test_in_a_storm_of_kills_and_database_restarts_nothing_is_lost_and_nothing_is_made_twice(
    survived: tuple[Site, Outcome],
) -> None:
    _, outcome = survived

    assert outcome.findings == Findings()
    assert (outcome.studies, sum(outcome.kills.values()), len(outcome.restarts)) == (8, 2, 1)
    assert outcome.wanted == 4


def test_the_reckoning_finds_what_is_lost_what_is_there_twice_and_what_is_not_proved(
    survived: tuple[Site, Outcome], tmp_path: Path
) -> None:
    site, _ = survived
    sent = list(samples(tmp_path, OPTIONS.studies, random.Random(OPTIONS.seed)))
    acknowledged = [path for sample in sent for path in sample.instances]
    with site.database() as db:
        with db.begin() as session:
            site.store.discard(session.scalars(select(Instance.sha256).limit(1)).one())
            job = session.scalars(select(Job).limit(1)).one()
            values = {column.name: getattr(job, column.name) for column in Job.__table__.columns}
            session.add(Job(**values | {"id": None, "input_key": "0" * 64}))
            delivery = session.scalars(select(Delivery).limit(1)).one()
            session.execute(update(Delivery).where(Delivery.id == delivery.id).values(state="sent"))
        (result,) = site.pacs.post("/tools/find", {"Level": "Instance", "Query": {"SOPInstanceUID": delivery.sop_instance_uid}})
        with urllib.request.urlopen(urllib.request.Request(f"{site.pacs.url}/instances/{result}", method="DELETE"), timeout=20):
            pass

        findings = reckon(db, site.store, site.pacs, sent, acknowledged)

    assert [sentence.split(":")[0] for sentence in findings.lost if delivery.sop_instance_uid in sentence] == [
        "the PACS does not hold a result"
    ]
    assert any("has other bytes, or none" in sentence for sentence in findings.lost)
    assert any("the PACS has no" in sentence for sentence in findings.lost)
    assert findings.double == [f"a series has 2 jobs: {job.series_instance_uid}"]
    assert [sentence.split(":")[0] for sentence in findings.unproved] == [f"delivery {delivery.id} is sent"]
