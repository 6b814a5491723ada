"""Programs of other people that judge our objects. Each skips where it is missing, and none is believed by its exit code alone.

Known false positives are listed by name with the reason; everything else that a validator prints is a finding.
"""

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from pydicom import Dataset, dcmread

OHIF = Path(__file__).parent / "ohif"
PIXELMED_JAR = Path(os.environ.get("PIXELMED_JAR", "/usr/share/java/pixelmed.jar"))

DCIODVFY_FALSE_POSITIVES = {
    # IHE AIR 6.5.3.1 requires Device UID in Contributing Equipment; PS3.3 C.12 has it since 2018, dicom3tools not yet.
    "DeviceUID(0018,1002)> - Attribute is not present in standard DICOM IOD",
    # Type 2 attributes of the study, which are empty where the source has none.
    "Missing attribute or value that would be needed to build DICOMDIR",
    # A private scheme, as PS3.16 8.2 lets it begin with 99; the report declares it.
    "Unrecognized defined term = <99CAIGW>",
    # It is: the source tells neither the body part nor the side.
    "</Laterality(0020,0060)> - is only permitted to be empty when actually unknown",
    # Of PS3.3 C.8.32.2 (Derived Pixel Contrast); dicom3tools does not know it yet.
    "Unrecognized defined term = <QUANTITY>",
    # The source's name, which has no caret.
    "Value dubious for this VR [PN]",
}
DCENTVFY_FALSE_POSITIVES = {
    # Retired, so highdicom does not copy it.
    "Attribute present in one instance but not the other - Element=<EthnicGroup>",
    # SR General Series has no Accession Number, so the tool files the attribute under another entity than for images.
    "Different information entities for attribute - Element=<AccessionNumber>",
}
PIXELMED_FALSE_POSITIVES = {
    # Each measurement group is held against 1410, 1411 and 1501 in turn; only a group that declares 1501 is excused (see below).
    "Template 1410 PlanarROIMeasurements",
    "Template 1411 VolumetricROIMeasurements",
}
NODE = re.compile(r"within ([0-9.]+):")


def dciodvfy(path: Path) -> list[str]:
    """Errors and warnings of dicom3tools against the IOD (PS3.3)."""
    output = _run("dciodvfy", "-new", path).stderr.splitlines()
    findings = [line for line in output if line.startswith(("Error", "Warning", "Abort"))]
    if not set(output) - set(findings):
        findings.append("Error - expected the name of the IOD")
    return _unknown(findings, DCIODVFY_FALSE_POSITIVES)


def dcentvfy(paths: list[Path]) -> list[str]:
    """What differs between instances of one patient, study, series. It compares with the last file, so each end is tried."""
    findings: list[str] = []
    for ordered in (paths, paths[::-1]):
        findings += _run("dcentvfy", *ordered).stderr.splitlines()
    return _unknown([line for line in findings if line], DCENTVFY_FALSE_POSITIVES)


def pixelmed_sr(path: Path) -> list[str]:
    """Errors against the SR IOD and its templates (PS3.16). About six seconds; without its -D flags it stops and says nothing.

    A process lives too briefly for the second compiler to be worth its while, or for more than one collector of garbage.
    """
    if not PIXELMED_JAR.is_file():
        pytest.skip("PixelMed is missing: apt-get install libpixelmed-java, or set PIXELMED_JAR")
    limits = [f"-Djdk.xml.xpath{kind}=0" for kind in ("TotalOpLimit", "ExprOpLimit", "ExprGrpLimit")]
    limits += ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xms512m"]
    validator = ["-Xss512m", "-cp", PIXELMED_JAR, "com.pixelmed.validate.DicomSRValidator", "-donotmatchcase"]
    ran = _run("java", *limits, *validator, path)
    lines = (ran.stdout + ran.stderr).splitlines()
    findings = [line for line in lines if line.startswith("Error")]
    findings += [
        f"expected: {end}" for end in ("Root Template Validation Complete", "IOD validation complete") if end not in lines
    ]
    report = dcmread(path)
    return [
        finding
        for finding in findings
        if not (_is_general_group(report, finding) and _is_known(finding, PIXELMED_FALSE_POSITIVES))
    ]


def dcmqi_seg(path: Path) -> dict[int, int]:
    """Voxels of each segment as dcmqi reads them; {} where it wrote nothing."""
    with TemporaryDirectory() as folder:
        ran = _run(_dcmqi("segimage2itkimage"), "--inputDICOM", path, "--outputDirectory", folder, "-t", "nrrd", "-p", "x")
        if ran.returncode != 0 or "done" not in ran.stdout:
            return {}
        files = json.loads((Path(folder) / "x-meta.json").read_text())["segmentAttributes"]
        counts: dict[int, int] = {}
        for n, segments in enumerate(files, 1):
            voxels = _nrrd(Path(folder) / f"x-{n}.nrrd")
            counts |= {segment["labelID"]: int((voxels == segment["labelID"]).sum()) for segment in segments}
        return counts


def dcmqi_map(path: Path) -> tuple[np.ndarray, dict] | None:
    """The values of a parametric map as dcmqi reads them, (planes, rows, columns), and what it says of them; None: it does not."""
    with TemporaryDirectory() as folder:
        ran = _run(_dcmqi("paramap2itkimage"), "--inputDICOM", path, "--outputDirectory", folder, "-t", "nrrd")
        file = Path(folder) / "pmap.nrrd"
        if ran.returncode != 0 or not file.is_file():
            return None
        return _nrrd(file), json.loads((Path(folder) / "meta.json").read_text())


def dcmqi_sr(path: Path) -> dict:
    """The TID 1500 report as dcmqi reads it: "Measurements", "observerContext", ...; {} where it read no report."""
    with TemporaryDirectory() as folder:
        metadata = Path(folder) / "report.json"
        _run(_dcmqi("tid1500reader"), "--inputDICOM", path, "--outputMetadata", metadata)
        report = json.loads(metadata.read_text()) if metadata.is_file() else {}
        return report if report.get("Measurements") else {}


def plastimatch(structures: Path, images: Path) -> dict[str, np.ndarray]:
    """The regions of a structure set by their names, filled on the grid of the CT in the folder `images`: bool, flat, its foot first.

    {} where it read none.
    """
    with TemporaryDirectory() as folder:
        grid, found = Path(folder) / "ct.nrrd", Path(folder) / "found"
        _run("plastimatch", "convert", "--input", images, "--output-img", grid)
        _run(
            "plastimatch", "convert", "--input", structures, "--referenced-ct", images, "--fixed", grid, "--output-prefix", found,
            "--prefix-format", "nrrd",
        )  # fmt: skip
        return {path.stem: _nrrd(path) > 0 for path in found.glob("*.nrrd")}


def ohif_seg(seg_path: Path, source_paths: list[Path]) -> dict:
    """{"voxels": {segment: n}, "labels": [...]} as OHIF's own loader has them; {} where it fails."""
    if not (OHIF / "node_modules").is_dir():
        pytest.skip("OHIF's loader is missing: npm ci in tests/ohif")
    ran = _run("node", OHIF / "load_seg.mjs", seg_path, *source_paths)
    return json.loads(ran.stdout.splitlines()[-1]) if ran.returncode == 0 else {}


def _run(program: str | Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{Path(program).name} is missing")
    return subprocess.run(
        [found, *map(str, arguments)], capture_output=True, text=True, errors="replace", timeout=120, check=False
    )


def _dcmqi(program: str) -> Path:
    return Path(sys.executable).with_name(program)


def _unknown(findings: list[str], false_positives: set[str]) -> list[str]:
    return [finding for finding in findings if not _is_known(finding, false_positives)]


def _is_known(finding: str, false_positives: set[str]) -> bool:
    return any(known in finding for known in false_positives)


def _is_general_group(report: Dataset, finding: str) -> bool:
    """Whether PixelMed speaks of a TID 1501 group; "1.9.3" is the third item of the ninth item of the root."""
    node = NODE.search(finding)
    item = report
    for position in node[1].split(".")[1:] if node else []:
        item = item.ContentSequence[int(position) - 1]
    return "ContentTemplateSequence" in item and item.ContentTemplateSequence[0].TemplateIdentifier == "1501"


def _nrrd(path: Path) -> np.ndarray:
    header, _, data = path.read_bytes().partition(b"\n\n")
    types = {"short": "<i2", "unsigned short": "<u2", "unsigned char": "u1", "uchar": "u1", "int": "<i4", "float": "<f4"}
    fields = dict(line.split(": ", 1) for line in header.decode().splitlines() if ": " in line)
    values = np.frombuffer(gzip.decompress(data) if fields["encoding"] == "gzip" else data, types[fields["type"]])
    return values.reshape([*map(int, fields["sizes"].split())][::-1])
