"""One file and one model folder add a pipeline, one file adds a protocol; nothing in gateway/ knows of them."""

import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.sr.coding import Code

from gateway.errors import ConfigError, JobError
from gateway.outputs.seg import Segmentation
from gateway.outputs.sr import MeasurementReport
from gateway.peers import BUILT_IN, Peer, Sent, load_protocols, make_peer
from gateway.pipeline import Needs, Pipeline, Role, Study, load_pipelines
from gateway.work.foreign import outputs
from tests.synthetic import ct_series, part10
from tests.triton_fixture import write_model
from tests.world import World

PIPELINE = '''
"""Bone: what is above 300 HU."""

from collections.abc import Iterable

import numpy as np
from pydicom.sr.codedict import codes

from gateway.outputs import Output
from gateway.outputs.seg import Segment, Segmentation
from gateway.pipeline import Infer, Needs, Pipeline, Study

BONE = Segment("Bone", codes.SCT.Tissue, codes.SCT.Bone, None, None, (230, 220, 200))


def run(study: Study, infer: Infer) -> Iterable[Output]:
    mask = infer({"hounsfield": study.volume.array.astype(np.float32)})["mask"]
    yield Segmentation(study.volume.with_array(mask), (BONE,), "BONE", "Bone")


PIPELINE = Pipeline(version="0.1", model="threshold", needs=Needs(modality="CT", slices_at_least=2), run=run)
'''

MODEL_CONFIGURATION = """\
input [{ name: "hounsfield" data_type: TYPE_FP32 dims: [ -1, -1, -1 ] }]
output [{ name: "mask" data_type: TYPE_UINT8 dims: [ -1, -1, -1 ] }]
parameters { key: "shape_of.mask" value { string_value: "hounsfield" } }
instance_group [{ kind: KIND_CPU }]
"""

MODEL = """
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        inputs = [pb_utils.get_input_tensor_by_name(request, "hounsfield").as_numpy() for request in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("mask", (one > 300).astype(np.uint8))]) for one in inputs]
"""

RULES = """\
rules:
  - {name: bones, when: {all: [{attribute: Modality, is: CT}]}, pipeline: bone, send_to: [PEERS]}
"""

PROTOCOL = r'''
"""A diary: what was sent is written down, and kept."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gateway.peers import STORED, Sent, is_text, read_settings, setting


@dataclass(frozen=True, kw_only=True)
class Diary:
    name: str = setting("a name", is_text)
    path: str = setting("the path of a file", is_text)

    def send(self, path: Path) -> Sent:
        with Path(self.path).open("a") as diary:
            diary.write(f"{path.name}\n")
        return Sent(STORED, "written down")

    def echo(self) -> str:
        return "the diary is open"


def peer(settings: Mapping[str, object]) -> Diary:
    return read_settings(Diary, settings)
'''


def written(folder: Path, name: str, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(textwrap.dedent(text))
    return path


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A world with a folder of pipelines and a folder of models of its own; both are empty."""
    pipelines, models = tmp_path / "pipelines", tmp_path / "models"
    settings = {
        "gateway": {"pipelines": [str(pipelines)]},
        "triton": {"models": [str(models)], "environment": str(Path(__file__).parent.parent / ".venv-triton")},
    }
    pipelines.mkdir()
    models.mkdir()
    with World(tmp_path / "world", f"sqlite:///{tmp_path / 'gateway.db'}", "embedded", rules=RULES, settings=settings) as world:
        yield world


def test_a_pipeline_file_and_a_model_folder_are_all_that_a_new_pipeline_takes(world: World, tmp_path: Path, triton: str) -> None:
    series = ct_series(4)
    for ds in series[1:3]:  # a rib
        pixels = ds.pixel_array.copy()
        pixels[10:20, 10:20] = 500 + 1024
        ds.PixelData = pixels.tobytes()
    written(tmp_path / "pipelines", "bone.py", PIPELINE)
    write_model(tmp_path / "models", "threshold", MODEL_CONFIGURATION, MODEL)

    world.start()
    world.send(series)
    (job,) = world.wait_ended(series).jobs

    assert (job.job.state, job.job.pipeline, job.job.model) == ("done", "bone", "threshold")
    (segmentation,) = (dcmread(path) for path in world.pacs_files())
    assert segmentation.Modality == "SEG"
    assert segmentation.SegmentSequence[0].SegmentLabel == "Bone"
    assert int(segmentation.pixel_array.sum()) == 2 * 10 * 10


def test_a_pipeline_that_ends_its_process_fails_its_job_and_the_gateway_goes_on(
    world: World, tmp_path: Path, triton: str
) -> None:
    written(tmp_path / "pipelines", "bone.py", PIPELINE.replace("    mask = infer", "    raise SystemExit(3)\n    mask = infer"))
    write_model(tmp_path / "models", "threshold", MODEL_CONFIGURATION, MODEL)
    line = PIPELINE.splitlines().index('    mask = infer({"hounsfield": study.volume.array.astype(np.float32)})["mask"]') + 1
    series = ct_series(4)

    world.start()
    world.send(series)
    (job,) = world.wait_ended(series).jobs

    assert job.job.state == "failed"
    assert job.job.reason == (
        f"unexpected SystemExit in the pipeline's code (bone.py, line {line}); the log has where it was raised"
    )


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise KeyboardInterrupt", r"unexpected KeyboardInterrupt in the pipeline's code \(bone.py, line 10\)"),
        ("study.write[0] = 1", r"unexpected AttributeError in the pipeline's code \(bone.py, line 10\)"),
        ("return None", "expected run to yield outputs, or to return several: it returned None"),
        ("return [np.zeros(3)]", "expected outputs, such as Segmentation: run yielded a ndarray"),
        ("return [report(segmentation())]", "expected the segmentation of a report to be yielded too"),
        ("return [segmentation(), report(segmentation())]", "expected the segmentation of a report to be yielded too"),
        ("raise Unsuitable('NOCONTRAST', 'expected a venous phase')", "expected a venous phase"),
    ],
)
def test_what_a_pipeline_does_wrong_is_told_in_words(tmp_path: Path, body: str, said: str) -> None:
    written(tmp_path, "bone.py", f"""\
        import numpy as np
        from pydicom.sr.coding import Code
        from gateway.errors import Unsuitable
        from gateway.outputs.seg import Segmentation
        from gateway.outputs.sr import MeasurementReport
        from gateway.pipeline import Needs, Pipeline
        segmentation = lambda: Segmentation(None, (), "BONE", "Bone")
        report = lambda one: MeasurementReport(one, (), Code("1", "99X", "x"), "Bone")
        def run(study, infer):
            {body}
        PIPELINE = Pipeline("1", "bone", Needs("CT"), run)
    """)  # fmt: skip
    pipeline = load_pipelines([tmp_path])["bone"]

    with pytest.raises(JobError, match=said):
        outputs(pipeline, Study(None, ()), lambda arrays: arrays)


def test_a_report_and_the_segmentation_that_it_names_are_taken_in_either_order() -> None:
    segmentation = Segmentation(None, (), "BONE", "Bone")
    report = MeasurementReport(segmentation, (), Code("1", "99X", "x"), "Bone")
    pipeline = Pipeline("1", "bone", Needs("CT"), lambda _study, _infer: (report, segmentation))

    assert outputs(pipeline, Study(None, ()), lambda arrays: arrays) == (report, segmentation)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ANSWER = 42", "expected PIPELINE = gateway.pipeline.Pipeline(...)"),
        ("PIPELINE = 42", "expected PIPELINE = gateway.pipeline.Pipeline(...)"),
        ("import a_module_that_nobody_has", "cannot be loaded: ModuleNotFoundError"),
        ("def run(:", "cannot be loaded: SyntaxError"),
        (PIPELINE.replace('version="0.1"', "version=1"), "cannot be loaded: ValueError: expected version: a text"),
        (PIPELINE.replace('"CT"', '["CT", "MR"]'), 'cannot be loaded: ValueError: expected modality: "CT", or several'),
        (PIPELINE.replace('"CT"', '"CT", volume="biggest"'), "cannot be loaded: ValueError: expected volume: "),
        (PIPELINE.replace('"CT"', '"CT", volume={"EchoTimes": 20}'), "cannot be loaded: ValueError: expected volume: "),
        (PIPELINE.replace('"CT"', '"CT", kernel="hard"'), "cannot be loaded: ValueError: expected kernel: "),
    ],
)
def test_a_pipeline_file_that_is_none_stops_the_start_with_its_path(world: World, tmp_path: Path, text: str, said: str) -> None:
    path = written(tmp_path / "pipelines", "bone.py", text)

    started = world.run("serve")

    assert started.returncode == 1
    assert f"{path}: {said}" in started.stderr


def test_a_folder_of_pipelines_that_is_not_there_stops_the_start(world: World, tmp_path: Path) -> None:
    (tmp_path / "pipelines").rmdir()

    started = world.run("serve")

    assert started.returncode == 1
    assert f"{tmp_path / 'pipelines'}: there is no such folder of pipelines" in started.stderr


def test_a_pipeline_that_has_the_name_of_a_built_in_one_stops_the_start(world: World, tmp_path: Path) -> None:
    path = written(tmp_path / "pipelines", "ct_lung.py", PIPELINE)

    started = world.run("serve")

    assert started.returncode == 1
    assert f"{path}: a pipeline of this name is there already" in started.stderr


def test_a_protocol_file_is_all_that_a_new_protocol_takes(tmp_path: Path) -> None:
    written(tmp_path / "protocols", "diary.py", PROTOCOL)
    instance = tmp_path / "instance.dcm"
    instance.write_bytes(part10(ct_series(1)[0]))

    protocols = load_protocols((BUILT_IN, tmp_path / "protocols"))
    settings = {"name": "notes", "protocol": "diary", "path": str(tmp_path / "diary.txt")}
    peer: Peer = make_peer(settings, protocols=protocols)

    assert {"dimse", "dicomweb", "folder", "orthanc", "diary"} == set(protocols)
    assert peer.send(instance) == Sent(0x0000, "written down")
    assert (tmp_path / "diary.txt").read_text() == "instance.dcm\n"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("diary.py", "ANSWER = 42", "expected def peer(settings: Mapping[str, object]) -> Peer"),
        ("diary.py", "1 / 0", "cannot be loaded: ZeroDivisionError"),
        ("dimse.py", PROTOCOL, "a protocol of this name is there already"),
    ],
)
def test_a_protocol_file_that_is_none_is_told_with_its_path(tmp_path: Path, name: str, text: str, said: str) -> None:
    path = written(tmp_path / "protocols", name, text)

    with pytest.raises(ConfigError) as wrong:
        load_protocols((BUILT_IN, tmp_path / "protocols"))

    assert [problem for problem in wrong.value.problems if problem.startswith(f"{path}: {said}")]


@pytest.mark.parametrize(
    "said",
    [
        'Needs("MR", companions=(Role("b 1400"),))',
        'Needs("MR", companions=(Role("adc"), Role("adc")))',
        'Needs("MR", companions=Role("adc"))',
        'Needs("MR", companions=("adc",))',
        'Needs("MR", companions=(Role("adc", Needs("MR", one_of_study=True)),))',
    ],
)
def test_companions_that_are_none_are_told_when_the_file_is_loaded(tmp_path: Path, said: str) -> None:
    head = "from gateway.pipeline import Needs, Pipeline, Role\n"
    path = written(tmp_path, "prostate.py", f'{head}PIPELINE = Pipeline("1", "prostate", {said}, print)\n')

    with pytest.raises(ConfigError, match=f"{path.name}.*expected (companions|role): "):
        load_pipelines([tmp_path])


def test_a_companion_is_what_the_series_is_unless_its_role_says_otherwise() -> None:
    needs = Needs("CT", slices_at_least=3, one_of_study=True, companions=(own := Role("late"), pet := Role("pet", Needs("PT"))))

    assert needs.of(own) == Needs("CT", slices_at_least=3)
    assert needs.of(pet) == Needs("PT")
    assert Pipeline("1", "m", needs, print).roles == {"late": True, "pet": True}
