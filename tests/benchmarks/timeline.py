"""From the last image to the results in the PACS: what the gateway itself takes, and how much memory.

    python -m tests.benchmarks.timeline [--slices 300] [--rounds 3] [--prompt 40]

Phantoms of 300 slices of 512 x 512 go by C-STORE to a `gateway serve`; a real Orthanc takes the results. Printed are the
steps of the time line and the gateway's overhead: last image -> last result acknowledged, less the quiet time and less the
model. The model is what Triton itself reports for the request: waiting, copying into and out of the model's process,
computing; what the gateway does to hand the volume over is its own. The first series after the start stands apart, because
it meets fresh memory and nothing loaded. The memory is the sum of the proportional set sizes of the gateway's process tree,
without Triton, sampled every 50 ms while one more series comes. Then as many small series as `--prompt` says, one after the other, which declare their
number of images: from the last image to the start of the job, with the waiting times that the gateway has by default. Nothing
is asserted: a machine decides nothing but its own figures.
"""

import argparse
import statistics
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import psutil
from tritonclient.grpc import InferenceServerClient

from gateway.configuration.patience import CompletenessSection
from gateway.imaging.phantom import chest_ct
from gateway.inference.tritonserver import TritonServer
from gateway.peers import load_protocols, make_peer, send_many
from gateway.views.stories import show_series
from tests.benchmarks.report import Goal
from tests.peers_fixture import Orthanc, running_orthanc
from tests.synthetic import ct_series
from tests.world import RULES, World

ROOT = Path(__file__).parent.parent.parent
QUIET_SECONDS = 1.0
_SMALL = 40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pipeline", default="ct_lung")
    parser.add_argument("--prompt", type=int, default=40)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "orthanc").mkdir()
        repositories = [ROOT / "triton_models", ROOT / "tests" / "models"]
        server = TritonServer(repositories, log_file=folder / "triton.log", environment=ROOT / ".venv-triton")
        with server, running_orthanc(folder / "orthanc") as pacs, _world(folder, options, server.url, pacs) as world:
            serving = world.start().process.pid
            rounds = [_round(world, number, options) for number in range(options.rounds + 1)]
            with _peak_memory(serving) as peak:  # one more: who asks for it all the time slows down what is asked
                _round(world, options.rounds + 1, options)
        with server, _prompt_world(folder / "prompt", server.url) as world:
            world.start()
            prompt = [_prompt(world, number) for number in range(options.prompt)]
    _tell("the first series after the start", rounds[:1], options)
    if options.rounds:
        _tell(f"median of {options.rounds} series after it", rounds[1:], options)
    if prompt:
        print(f"\n{options.prompt} series of {_SMALL} slices that declare their number, last image -> job started, seconds")
        print(f"  median {statistics.median(prompt):.2f}, the longest {max(prompt):.2f}")
        print(Goal("p95 of last image -> job started, s", sorted(prompt)[int(len(prompt) * 0.95)], 2, at_most=True))
    print(f"\npeak memory of the process tree without Triton: {peak[0] / 1e9:.2f} GB (goal: at most 1.5)")


def _tell(title: str, rounds: list[dict[str, float]], options: argparse.Namespace) -> None:
    print(f"\n{title}: {options.slices} slices of 512 x 512, pipeline {options.pipeline}, seconds")
    for what in rounds[0]:
        values = [found[what] for found in rounds]
        print(f"  {what:50} {statistics.median(values):7.2f}   ({min(values):.2f} to {max(values):.2f})")


def _world(folder: Path, options: argparse.Namespace, triton: str, pacs: Orthanc) -> World:
    peer = {"name": "pacs", "protocol": "dimse", "host": "127.0.0.1", "port": pacs.dicom_port, "ae_title": pacs.ae_title}
    rules = RULES.replace("pipeline: bright", f"pipeline: {options.pipeline}")
    settings = {"completeness": {"quiet_seconds": QUIET_SECONDS}, "triton": {"timeout_seconds": 600}}
    return World(folder, f"sqlite:///{folder}/gateway.db", triton, (peer,), rules, settings)


def _prompt_world(folder: Path, triton: str) -> World:
    """With the waiting times that the gateway has by default."""
    settings = {"completeness": CompletenessSection().model_dump(include={"quiet_seconds", "settle_seconds"})}
    return World(folder, f"sqlite:///{folder}/gateway.db", triton, settings=settings)


def _prompt(world: World, number: int) -> float:
    series = ct_series(_SMALL, 256, 256, seed=number, ImagesInAcquisition=_SMALL)
    assert world.send(series) == [0x0000] * _SMALL
    world.wait_settled(number + 1, 60)
    job = world.jobs()[0]
    with world.database() as db:
        found = show_series(db, job.series_instance_uid)
    assert found.series.series_instance_uid == series[0].SeriesInstanceUID
    return (job.started_at - found.series.last_received_at).total_seconds()


def _round(world: World, number: int, options: argparse.Namespace) -> dict[str, float]:
    files = _phantom(world.folder / f"phantom{number}", options.slices, number)
    before = _inferred(world.triton, options.pipeline)
    began = datetime.now(UTC)
    own = {"name": "self", "protocol": "dimse", "host": "127.0.0.1", "port": world.port, "ae_title": "AIGATEWAY"}
    assert all(hasattr(sent, "status") for _, sent in send_many(make_peer(own, protocols=load_protocols()), files))
    world.wait_settled(number + 1, 600)
    job, deliveries = world.jobs()[0], world.deliveries()
    assert job.state == "done", f"{job.code} {job.reason}"
    with world.database() as db:
        series = show_series(db, job.series_instance_uid).series
    last = series.last_received_at
    sent = max(delivery.sent_at for delivery in deliveries if delivery.job == job.id)
    total, model = (sent - last).total_seconds(), _inferred(world.triton, options.pipeline) - before
    return {
        "C-STORE in": (last - began).total_seconds(),
        "last image -> complete, less the quiet time": (series.complete_at - last).total_seconds() - QUIET_SECONDS,
        "complete -> job started": (job.started_at - series.complete_at).total_seconds(),
        "job started -> model ended, less the model": (job.inferred_at - job.started_at).total_seconds() - model,
        "the model (Triton's time for the request)": model,
        "model ended -> encoded": (job.encoded_at - job.inferred_at).total_seconds(),
        "encoded -> last result acknowledged by the PACS": (sent - job.encoded_at).total_seconds(),
        "last image -> last result acknowledged": total,
        "the gateway's overhead (goal: at most 3)": total - QUIET_SECONDS - model,
    }


def _phantom(folder: Path, slices: int, seed: int) -> list[Path]:
    folder.mkdir(parents=True)
    for number, dataset in enumerate(chest_ct(slices=slices, now=datetime(2026, 1, 2, 10, tzinfo=UTC), seed=seed)):
        dataset.save_as(folder / f"{number:04d}.dcm", enforce_file_format=True)
    return sorted(folder.iterdir())


def _inferred(triton: str, model: str) -> float:
    """Seconds that Triton has spent on requests to the model since it started."""
    with InferenceServerClient(triton) as client:
        statistics_ = client.get_inference_statistics(model).model_stats
    return sum(stat.inference_stats.success.ns for stat in statistics_) / 1e9


@contextmanager
def _peak_memory(pid: int) -> Iterator[list[int]]:
    peak, ended = [0], threading.Event()

    def sample() -> None:
        process = psutil.Process(pid)
        while not ended.wait(0.05):
            try:
                tree = [process, *process.children(recursive=True)]
                peak[0] = max(peak[0], sum(member.memory_full_info().pss for member in tree))
            except psutil.Error:
                return

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()


if __name__ == "__main__":
    main()
