"""From the last image to the SEG in the PACS: what the gateway itself takes, and how much memory.

    python -m tests.benchmarks.timeline [--slices 300] [--rounds 3]

A phantom of 300 slices of 512 x 512 goes by C-STORE to a `gateway serve`; a real Orthanc takes the results. Printed are
the steps of the time line and the overhead: last image -> SEG acknowledged, less the quiet time and less the model, whose
time Triton itself reports (compute_infer). The memory is the sum of the proportional set sizes of the gateway's process
tree, without Triton, sampled every 50 ms. Nothing is asserted: this machine decides nothing but its own figures.
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

from gateway.peers import load_protocols, make_peer, send_many
from gateway.phantom import chest_ct
from gateway.tritonserver import TritonServer
from tests.peers_fixture import running_orthanc
from tests.world import RULES, World

ROOT = Path(__file__).parent.parent.parent
QUIET_SECONDS = 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pipeline", default="ct_lung")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "orthanc").mkdir()
        repositories = [ROOT / "triton_models", ROOT / "tests" / "models"]
        server = TritonServer(repositories, log_file=folder / "triton.log", environment=ROOT / ".venv-triton")
        with server, running_orthanc(folder / "orthanc") as pacs:
            rounds = [_round(folder / str(n), n, options, server.url, pacs) for n in range(options.rounds)]
    names = rounds[0].keys()
    print(f"\nmedian of {len(rounds)} rounds, {options.slices} slices of 512 x 512, pipeline {options.pipeline}")
    for what in names:
        values = [found[what] for found in rounds]
        print(f"  {what:58} {statistics.median(values):9.2f}   ({min(values):.2f} to {max(values):.2f})")


def _round(folder: Path, number: int, options: argparse.Namespace, triton: str, pacs: object) -> dict[str, float]:
    files = _phantom(folder / "phantom", options.slices, number)
    peer = {"name": "pacs", "protocol": "dimse", "host": "127.0.0.1", "port": pacs.dicom_port, "ae_title": pacs.ae_title}
    rules = RULES.replace("pipeline: bright", f"pipeline: {options.pipeline}")
    settings = {"completeness": {"quiet_seconds": QUIET_SECONDS}, "triton": {"timeout_seconds": 600}}
    world = World(folder, f"sqlite:///{folder}/gateway.db", triton, (peer,), rules, settings)
    before = _inferred(triton, options.pipeline)
    with world.start(), _peak_memory(world.process.pid) as peak:
        began = datetime.now(UTC)
        own = {"name": "self", "protocol": "dimse", "host": "127.0.0.1", "port": world.port, "ae_title": "AIGATEWAY"}
        assert all(hasattr(sent, "status") for _, sent in send_many(make_peer(own, protocols=load_protocols()), files))
        world.wait_settled(1, 600)
        (job,) = world.jobs()
        deliveries = world.deliveries()
        with world.database() as db:
            from gateway.admin import list_series

            series = list_series(db)[0].series
        assert job.state == "done", f"{job.code} {job.reason}"
    model = _inferred(triton, options.pipeline) - before
    last, sent = series.last_received_at, max(delivery.sent_at for delivery in deliveries)
    total = (sent - last).total_seconds()
    found = {
        "C-STORE in, seconds": (last - began).total_seconds(),
        "last image -> complete": (series.complete_at - last).total_seconds(),
        "complete -> job started": (job.started_at - series.complete_at).total_seconds(),
        "job started -> model ended": (job.inferred_at - job.started_at).total_seconds(),
        "model ended -> encoded": (job.encoded_at - job.inferred_at).total_seconds(),
        "encoded -> last result acknowledged by the PACS": (sent - job.encoded_at).total_seconds(),
        "last image -> last result acknowledged": total,
        "of it the quiet time": QUIET_SECONDS,
        "of it the model (compute_infer)": model,
        "gateway's overhead, seconds (goal: at most 3)": total - QUIET_SECONDS - model,
        "peak memory of the process tree, GB (goal: at most 1.5)": peak[0] / 1e9,
    }
    print(f"round {number + 1}: overhead {total - QUIET_SECONDS - model:.2f} s, model {model:.2f} s, peak {peak[0] / 1e9:.2f} GB")
    return found


def _phantom(folder: Path, slices: int, seed: int) -> list[Path]:
    folder.mkdir(parents=True)
    for number, dataset in enumerate(chest_ct(slices=slices, now=datetime(2026, 1, 2, 10, tzinfo=UTC), seed=seed)):
        dataset.save_as(folder / f"{number:04d}.dcm", enforce_file_format=True)
    return sorted(folder.iterdir())


def _inferred(triton: str, model: str) -> float:
    """Seconds that the model itself has computed since Triton started."""
    with InferenceServerClient(triton) as client:
        statistics_ = client.get_inference_statistics(model).model_stats
    return sum(stat.inference_stats.compute_infer.ns for stat in statistics_) / 1e9


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
