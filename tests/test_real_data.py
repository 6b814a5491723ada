"""Real studies of the developers' data, sent by DCMTK to a whole gateway with a real Orthanc behind it."""

import json
import shutil
import subprocess
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from pydicom import dcmread

from gateway.commands.demo import outline_png
from tests import validators
from tests.peers_fixture import running_orthanc
from tests.unet import CHEST, chest_lungs
from tests.world import World

pytestmark = pytest.mark.xdist_group("lungs")
RULES = """\
rules:
  - name: whatever has a modality
    when:
      all:
        - {attribute: Modality, exists: true}
    pipeline: ct_lung
    send_to: [PEERS]
"""
# What must become of each series that is no whole human chest CT: the job's code, or None where no job is made.
REFUSED = {
    "ct_chest_ge_lidc0001_nodule_subrange": {"INCOMPLETE"},
    "ct_abdomen_siemens_venous_5mm": {"INCOMPLETE"},
    "ct_head_phantom_philips_tilted_-18.5": {"GEOMETRY"},
    "ct_scout_and_dose_screens_philips": {"GEOMETRY", "IMAGE"},
    "dx_chest_dog": {"IMAGE"},
    "mr_mosaic_siemens_ep2d": {"IMAGE"},
    "mr_fmri_ge_repeated_positions": {"IMAGE"},
    "cr_chest_rsna_jpeg_as_sc": {"IMAGE"},
    "seg_liver_with_source_ct": {"INCOMPLETE", "GEOMETRY"},
    "rtstruct_with_ct": {"IMAGE", "GEOMETRY", "INCOMPLETE"},
}


def storescu(folder: Path, port: int) -> None:
    program = shutil.which("storescu")
    if program is None:
        pytest.skip("DCMTK is not installed (Debian: dcmtk)")
    command = [program, "-R", "-xi", "-aet", "CT1", "-aec", "AIGATEWAY", "+sd", "+r", "127.0.0.1", str(port), folder]
    subprocess.run(command, check=True, capture_output=True, timeout=120)


def test_a_real_chest_ct_comes_back_from_orthanc_with_a_right_and_valid_result(
    real_data: Path, weights: Path, triton: str, tmp_path: Path
) -> None:
    sources = sorted((real_data / CHEST).glob("*.dcm"))
    (tmp_path / "orthanc").mkdir()
    with running_orthanc(tmp_path / "orthanc") as pacs:
        peer = {"name": "pacs", "protocol": "dimse", "host": "127.0.0.1", "port": pacs.dicom_port, "ae_title": pacs.ae_title}
        with World(tmp_path / "world", f"sqlite:///{tmp_path}/g.db", triton, (peer,), RULES) as world:
            world.start()
            storescu(real_data / CHEST, world.port)
            world.wait_settled(seconds=200)
            sent = {delivery.sop_instance_uid for delivery in world.deliveries() if delivery.state == "proved"}
        files = _held(pacs, tmp_path / "held")

    assert {path.stem for path in files} == sent
    study = dcmread(sources[0]).StudyInstanceUID
    held = {dcmread(path).Modality: path for path in files}
    assert sorted(held) == ["SEG", "SR"]
    assert {dcmread(path).StudyInstanceUID for path in files} == {study}

    opinion = chest_lungs(real_data, weights)
    lungs = hd.seg.segread(held["SEG"]).get_volume(combine_segments=True).match_geometry(opinion)
    ours, other = lungs.array > 0, opinion.array > 0
    assert 2 * np.count_nonzero(ours & other) / (np.count_nonzero(ours) + np.count_nonzero(other)) >= 0.93
    assert np.count_nonzero(ours) == pytest.approx(np.count_nonzero(other), rel=0.07)

    for path in held.values():
        assert validators.dciodvfy(path) == []
    assert validators.dcentvfy([*sources[:3], *held.values()]) == []
    assert validators.pixelmed_sr(held["SR"]) == []
    voxels = {number: int(np.count_nonzero(lungs.array == number)) for number in (1, 2)}
    assert validators.dcmqi_seg(held["SEG"]) == voxels
    assert _values(validators.dcmqi_sr(held["SR"])) == pytest.approx(_values_of(held["SR"]))
    assert validators.ohif_seg(held["SEG"], sources)["voxels"] == {str(n): count for n, count in voxels.items()}
    assert outline_png(hd.seg.segread(held["SEG"]), sources).startswith(b"\x89PNG")


def test_no_other_series_gets_a_result_and_each_says_why(real_data: Path, triton: str, tmp_path: Path) -> None:
    folders = [name for name in REFUSED if (real_data / name).is_dir()]
    taken = {"completeness": {"deadline_seconds": 1, "at_deadline": "partial"}}  # what lacks something would wait for it
    with World(tmp_path / "world", f"sqlite:///{tmp_path}/g.db", triton, rules=RULES, settings=taken) as world:
        world.start()
        for name in folders:
            shutil.copytree(real_data / name, tmp_path / "in" / name)
            assert world.run("send", str(tmp_path / "in" / name)).stdout
        world.wait_settled(len(folders), seconds=200)
        jobs = world.jobs()
        study_of = {
            dcmread(path, force=True, stop_before_pixels=True).get("SeriesInstanceUID"): name
            for name in folders
            for path in (tmp_path / "in" / name).rglob("*")
            if path.suffix not in (".md", ".json") and path.is_file()
        }

        assert not world.pacs_files()
        assert jobs
        for job in jobs:
            name = study_of[job.series_instance_uid]
            assert (job.state, job.code in REFUSED[name]) == ("failed", True), (name, job.code, job.reason)
            assert job.reason


def _held(pacs, folder: Path) -> list[Path]:
    folder.mkdir()
    for instance in json.loads(pacs.get("/instances")):
        data = pacs.get(f"/instances/{instance}/file")
        path = folder / instance
        path.write_bytes(data)
        path.rename(folder / f"{dcmread(path).SOPInstanceUID}.dcm")
    return sorted(folder.iterdir())


def _values(report: dict) -> list[float]:
    return sorted(float(item["value"]) for group in report["Measurements"] for item in group["measurementItems"])


def _values_of(path: Path) -> list[float]:
    content = hd.sr.srread(path).content
    groups = [*content.get_volumetric_roi_measurement_groups(), *content.get_image_measurement_groups()]
    return sorted(float(item.value) for group in groups for item in group.get_measurements())
