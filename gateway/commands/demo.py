"""`gateway demo`: the main job on this machine, from a scanner's C-STORE to results in a PACS, with nothing configured.

Everything that is shown at the end is read back from the PACS.
"""

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import highdicom as hd
from pydicom import Dataset, dcmread
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from gateway import log
from gateway.app import Gateway
from gateway.commands.demopacs import Pacs, pacs
from gateway.configuration.config import parse
from gateway.configuration.sections import Config
from gateway.decisions.measured import measured
from gateway.dicom.pixels import pixels
from gateway.errors import ConfigError, DeliveryError
from gateway.imaging.phantom import chest_ct
from gateway.imaging.picture import outlined
from gateway.imaging.plane import segments
from gateway.imaging.volume import arrange, volume
from gateway.machine.stopping import Stop
from gateway.peers import own_listener, send_many
from gateway.rows.tables import DeliveryState, JobState, SeriesState
from gateway.serving.plan import plan
from gateway.store import Store
from gateway.views.stories import JobStory, SeriesStory, show_series

_COMPLETENESS = {"quiet_seconds": 2.0, "settle_seconds": 0.5, "one_association": True}  # the sender is our own
_RULES = """\
rules:
  - name: chest CT, lungs
    when:
      all:
        - {attribute: Modality, is: CT}
        - {fact: slices, at_least: 20}
        - {fact: regular, is: true}
    pipeline: ct_lung
    send_to: [pacs]
"""
_JOB_ENDS = (JobState.DONE, JobState.FAILED, JobState.CANCELLED)
_DELIVERY_ENDS = (DeliveryState.PROVED, DeliveryState.HELD, DeliveryState.FAILED, DeliveryState.CANCELLED, DeliveryState.UNWANTED)


def demonstrate(path: Path | None, *, once: bool, folder: Path, out: Console, program: str | None) -> None:
    """Show the main job with `path`'s files, or with a chest CT that is synthesised; then serve until Ctrl-C, or end.

    `program` is the Orthanc that stands for the PACS; None: a folder does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log.configure("error", "console")
    out.print("[bold]Clinical AI gateway, demonstration[/]: a scanner sends a chest CT, the results go back to the PACS")
    with pacs(folder / "pacs", "AIGATEWAY", program) as archive, Gateway(plan(_config(folder, archive))) as gateway:
        out.print(f"  listening on 127.0.0.1:{gateway.port} as AIGATEWAY; the PACS is {archive.name}", highlight=False)
        with _steps(out) as steps:
            files = _files(path, folder, steps)
            _await(steps, "starting NVIDIA Triton", gateway.start_models)
            series = _send(files, gateway, steps)
            stories = _watch(series, gateway, steps)
        for story in stories:
            _tell(story, archive, gateway.store, folder, out)
        where = f"the gateway takes C-STORE on 127.0.0.1:{gateway.port}, the PACS is {archive.name}"
        out.print(f"\n{where}, files are in {folder}", highlight=False)
        if not once:
            out.print("serving until Ctrl-C")
            Stop().wait()


def _config(folder: Path, archive: Pacs) -> Config:
    rules = folder / "rules.yaml"
    rules.write_text(_RULES)
    values = {
        "gateway": {"data_dir": folder}, "dimse": {"port": 0}, "completeness": _COMPLETENESS,
        "rules": {"file": rules}, "peers": (archive.peer,), "store": {"keep_free_bytes": 0},
    }  # fmt: skip
    return parse(values, where="demonstration")


def _steps(out: Console) -> Progress:
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=out)


def _await(steps: Progress, what: str, act: Callable[[Callable[[str], None]], None]) -> None:
    task = steps.add_task(what, total=1)
    act(lambda text: steps.update(task, description=f"{what}: {text}"))
    steps.update(task, description=what, completed=1)


def _files(path: Path | None, folder: Path, steps: Progress) -> list[Path]:
    """The person's own files, or a phantom of a patient who was never here before."""
    if path is not None:
        files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        if not (found := [file for file in files if _is_dicom(file)]):
            raise ConfigError([f"{path}: expected DICOM files (PS3.10)"])
        return found
    slices, now = 96, datetime.now(UTC)
    target = folder / "phantom" / f"{now:%Y%m%d-%H%M%S}"
    target.mkdir(parents=True, exist_ok=True)
    task = steps.add_task("synthesising a chest CT", total=slices)
    for number, dataset in enumerate(chest_ct(slices=slices, now=now, seed=int(now.timestamp()))):
        dataset.save_as(target / f"{number:03d}.dcm", enforce_file_format=True)
        steps.advance(task)
    return sorted(target.iterdir())


def _is_dicom(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(132).endswith(b"DICM")


def _send(files: Sequence[Path], gateway: Gateway, steps: Progress) -> list[str]:
    """By C-STORE to our own listener, like any scanner's; returns the series that were sent."""
    task = steps.add_task("C-STORE from the scanner", total=len(files))
    series: dict[str, None] = {}
    for file, result in send_many(own_listener(gateway.config, "CTSCANNER", gateway.port), files):
        steps.advance(task)
        if isinstance(result, DeliveryError):
            steps.console.print(f"[red]refused[/] {file.name}: {result}", highlight=False)
        else:
            uid = dcmread(file, stop_before_pixels=True, specific_tags=["SeriesInstanceUID"]).SeriesInstanceUID
            series[uid] = None
    if not series:
        raise ConfigError(["no file was taken"])
    return list(series)


def _watch(series: Sequence[str], gateway: Gateway, steps: Progress) -> list[SeriesStory]:
    """Wait until every series is settled and everything that follows from it has ended."""
    complete = steps.add_task("series complete", total=len(series))
    jobs, deliveries = steps.add_task("jobs", total=None), steps.add_task("results in the PACS", total=None)
    while True:
        try:
            stories = [show_series(gateway.db, uid) for uid in series]
        except ConfigError:  # acknowledged, and about to be indexed
            time.sleep(0.1)
            continue
        made = [job for story in stories for job in story.jobs]
        sent = [delivery for job in made for delivery in job.deliveries]
        settled = sum(story.series.state != SeriesState.RECEIVING for story in stories)
        ended = sum(job.job.state in _JOB_ENDS for job in made)
        arrived = sum(delivery.state in _DELIVERY_ENDS for delivery in sent)
        steps.update(complete, completed=settled)
        steps.update(jobs, completed=ended, total=len(made))
        steps.update(deliveries, completed=arrived, total=len(sent))
        if settled == len(series) and ended == len(made) and arrived == len(sent):
            return stories
        time.sleep(0.1)


def _tell(story: SeriesStory, archive: Pacs, store: Store, folder: Path, out: Console) -> None:
    out.print(f"\n[bold]{story.series.modality} series[/] {story.series.series_instance_uid}", highlight=False)
    out.print(f"  complete: {story.series.reason}", highlight=False)
    for outcome in story.outcomes:
        if not outcome.matched:
            for condition in _leaves(outcome.explanation["conditions"]):
                out.print(f"  rule {outcome.rule!r}: {condition['text']}: {condition['why']}", highlight=False)
    for job in story.jobs:
        _tell_job(job, story, out)
        if job.job.state == JobState.DONE:
            _show_results(job, story, archive, store, folder, out)


def _leaves(conditions: Sequence[dict[str, object]]) -> list[dict[str, object]]:
    """The conditions that did not hold, without the groups around them."""
    found: list[dict[str, object]] = []
    for condition in conditions:
        inner = condition.get("conditions") or ()
        found += _leaves(list(inner)) if inner else [] if condition["held"] else [condition]  # type: ignore[call-overload]
    return found


def _tell_job(story: JobStory, series: SeriesStory, out: Console) -> None:
    job = story.job
    out.print(f"  job {job.id}, pipeline {job.pipeline}: {job.state} {job.code} {job.reason}".rstrip(), highlight=False)
    sent = [delivery.sent_at for delivery in story.deliveries if delivery.sent_at]
    proved = [delivery.proved_at for delivery in story.deliveries if delivery.proved_at]
    steps = (
        ("last image", series.series.last_received_at), ("complete", series.series.complete_at), ("job", job.started_at),
        ("model", job.inferred_at), ("encoded", job.encoded_at), ("sent to the PACS", max(sent, default=None)),
        ("proved to be there", max(proved, default=None)),
    )  # fmt: skip
    start = series.series.last_received_at
    line = " -> ".join(f"{what} {(at - start).total_seconds():+.2f} s" for what, at in steps if at)
    out.print(f"  {line}", highlight=False)


def _show_results(story: JobStory, series: SeriesStory, archive: Pacs, store: Store, folder: Path, out: Console) -> None:
    """What the PACS holds now: the objects, the measured values and a picture of them."""
    ours = {output.sop_instance_uid for output in story.outputs}
    held = [dcmread(BytesIO(data)) for data in archive.instances(series.study.study_instance_uid)]
    results = [dataset for dataset in held if dataset.SOPInstanceUID in ours]
    for dataset in results:
        what = f"{dataset.Modality} {dataset.SeriesDescription!r} {dataset.SOPInstanceUID}"
        out.print(f"  [green]in the PACS:[/] {what}", highlight=False)
    for dataset in results:
        if dataset.Modality == "SR":
            _values(dataset, out)
        if dataset.Modality == "SEG":
            _picture(dataset, story, store, folder / "lungs.png", out)


def _values(report: Dataset, out: Console) -> None:
    found = measured(report)
    table = Table(box=None, header_style="bold", padding=(0, 2))
    table.add_column("measured, not for diagnosis")
    for group in found.groups:
        table.add_column(group, justify="right")
    for name, values in found.rows.items():
        table.add_row(name, *values)
    out.print(table)


def _picture(segmentation: Dataset, story: JobStory, store: Store, file: Path, out: Console) -> None:
    seg = hd.seg.Segmentation.from_dataset(segmentation)
    file.write_bytes(outline_png(seg, [store.path(sha256) for sha256 in story.inputs]))
    out.print(f"  picture: {file}", highlight=False)


def outline_png(seg: hd.seg.Segmentation, sources: Sequence[Path]) -> bytes:
    """The segments of `seg` over the images in `sources`, whatever way these lie."""
    datasets = {dataset.SOPInstanceUID: dataset for dataset in map(dcmread, sources)}
    stack = arrange(list(datasets.values()))
    filled = volume(stack, (pixels(datasets[header.SOPInstanceUID]) for header in stack.headers))
    labels = seg.get_volume(combine_segments=True).match_geometry(filled)
    shown = filled.to_patient_orientation("HPL")
    colours = [colour for _, colour in segments(seg).values()]
    return outlined(shown.array, labels.to_patient_orientation("HPL").array, shown.spacing, colours)
