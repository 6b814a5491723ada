"""Triton for real: what it answers is held to its promise, and nothing of it is left behind."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from gateway.configuration.sections import TritonSection
from gateway.errors import BadModelOutput, ConfigError, JobError, ModelUnavailable
from gateway.inference import sharedmemory
from gateway.inference.models import Models
from gateway.inference.triton import Triton
from gateway.inference.tritonserver import TritonServer
from gateway.machine.logfile import keep_short
from tests.triton_fixture import ENVIRONMENT, start_triton, write_model

CONFIGURATION = """
input [{ name: "volume" data_type: TYPE_INT16 dims: [ -1, -1, -1 ] }, { name: "mode" data_type: TYPE_INT32 dims: [ 1 ] }]
output [{ name: "labels" data_type: TYPE_UINT8 dims: [ -1, -1, -1 ] }, { name: "score" data_type: TYPE_FP32 dims: [ 1 ] }]
parameters { key: "shape_of.labels" value { string_value: "volume" } }
instance_group [{ kind: KIND_CPU }]
"""
CODE = """
import os, time
import numpy as np
import triton_python_backend_utils as triton

class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        volume, mode = (triton.get_input_tensor_by_name(request, name).as_numpy() for name in ("volume", "mode"))
        mode = int(mode[0])
        if mode == 3:
            raise ValueError("CANARY")
        if mode == 4:
            time.sleep(3)
        if mode == 5:
            os._exit(1)
        if mode == 6:
            raise triton.TritonModelException("CANARY")
        labels = {1: volume[:-1], 2: volume[..., None], 7: volume[:0]}.get(mode, volume) > 0
        score = np.array([np.nan if mode == 8 else 0.5], np.float32)
        tensors = [triton.Tensor("labels", labels.astype(np.int8 if mode == 9 else np.uint8)), triton.Tensor("score", score)]
        return triton.InferenceResponse(tensors[:1] if mode == 10 else tensors)
"""
SMALL, LARGE = (3, 8, 9), (24, 256, 256)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    folder = tmp_path_factory.mktemp("triton")
    write_model(folder / "models", "odd", CONFIGURATION, CODE)
    write_model(folder / "models", "broken", CONFIGURATION, "raise ImportError('no such library')")
    server = start_triton([folder / "models"], folder / "triton.log")
    yield server
    server.stop()


@pytest.fixture(params=[True, False], ids=["shared memory", "gRPC"])
def client(request: pytest.FixtureRequest, server: TritonServer) -> Iterator[Triton]:
    triton = Triton(server.url, timeout_seconds=20, shared_memory=request.param, repositories=server.repositories)
    yield triton
    triton.close()


def arrays(mode: int = 0, shape: tuple[int, ...] = SMALL) -> dict[str, np.ndarray]:
    volume = np.random.default_rng(mode).integers(-1000, 1000, shape, dtype=np.int16)
    return {"volume": volume, "mode": np.array([mode], np.int32)}


def our_regions() -> list[Path]:
    return [path for path in Path("/dev/shm").glob(f"{sharedmemory.prefix()}*") if "server" not in path.name]


@pytest.mark.parametrize("shape", [SMALL, LARGE])
def test_a_right_answer_comes_back_unchanged(client: Triton, shape: tuple[int, ...]) -> None:
    sent = arrays(shape=shape)

    answer = client.infer("odd")(sent)

    assert (sent["volume"] > 0).astype(np.uint8).tobytes() == answer["labels"].tobytes()
    assert (shape, np.uint8, 0.5) == (answer["labels"].shape, answer["labels"].dtype, answer["score"][0])
    assert our_regions() == []


def test_an_array_that_is_not_contiguous_is_sent_right(client: Triton) -> None:
    sent = arrays(shape=LARGE)
    sent["volume"] = sent["volume"][::-1].transpose(2, 1, 0)

    answer = client.infer("odd")(sent)

    assert np.array_equal(sent["volume"] > 0, answer["labels"])


@pytest.mark.parametrize("shape", [SMALL, LARGE])
@pytest.mark.parametrize(
    "mode",
    [
        pytest.param(1, id="a slice too few"),
        pytest.param(2, id="an axis too many"),
        pytest.param(3, id="raises"),
        pytest.param(6, id="says that it failed"),
        pytest.param(7, id="empty"),
        pytest.param(8, id="not finite"),
        pytest.param(9, id="another type"),
        pytest.param(10, id="an output is missing"),
    ],
)
def test_an_answer_that_breaks_the_promise_is_final(client: Triton, mode: int, shape: tuple[int, ...]) -> None:
    with pytest.raises(BadModelOutput) as caught:
        client.infer("odd")(arrays(mode, shape))

    assert "CANARY" not in str(caught.value)
    assert our_regions() == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"volume": np.zeros(SMALL, np.int16)},
        {"volume": np.zeros(SMALL, np.float32), "mode": np.zeros(1, np.int32)},
        {"volume": np.zeros(SMALL, np.int16), "mode": np.zeros(2, np.int32)},
        {"volume": np.zeros((0, 4, 4), np.int16), "mode": np.zeros(1, np.int32)},
    ],
    ids=["an array is missing", "type", "shape", "empty"],
)
def test_arrays_that_the_model_does_not_take_are_refused_before_they_are_sent(
    client: Triton, wrong: dict[str, np.ndarray]
) -> None:
    with pytest.raises(JobError, match="the model takes") as caught:
        client.infer("odd")(wrong)

    assert not caught.value.retryable


def test_an_answer_that_takes_too_long_is_tried_again_later(server: TritonServer) -> None:
    hasty, patient = (Triton(server.url, timeout_seconds=seconds, shared_memory=True) for seconds in (1, 20))

    with pytest.raises(ModelUnavailable, match="in time"):
        hasty.infer("odd")(arrays(4, LARGE))

    assert patient.infer("odd")(arrays(0, LARGE))["labels"].any()
    assert our_regions() == []


def test_a_server_whose_model_process_died_is_revived_under_the_same_address(tmp_path: Path) -> None:
    write_model(tmp_path / "models", "odd", CONFIGURATION, CODE)
    server = start_triton([tmp_path / "models"], tmp_path / "triton.log")
    triton = Triton(server.url, timeout_seconds=20, shared_memory=True)
    before = server.revive()

    with pytest.raises(ModelUnavailable):
        triton.infer("odd")(arrays(5, LARGE))

    alive, revived = server.alive, server.revive()
    answer = triton.infer("odd")(arrays())
    server.stop()
    assert (False, False, True) == (before, alive, revived)
    assert answer["labels"].any()


COMPLETES_ITSELF = """
import numpy as np
import triton_python_backend_utils as triton

class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config):
        config.set_max_batch_size(0)
        config.add_input({"name": "volume", "data_type": "TYPE_INT16", "dims": [-1, -1, -1]})
        config.add_output({"name": "labels", "data_type": "TYPE_UINT8", "dims": [-1, -1, -1]})
        return config

    def execute(self, requests):
        volumes = [triton.get_input_tensor_by_name(request, "volume").as_numpy() for request in requests]
        return [triton.InferenceResponse([triton.Tensor("labels", (volume > 0).astype(np.uint8))]) for volume in volumes]
"""


def test_a_folder_of_models_that_is_not_there_keeps_no_model_of_another_from_being_served(tmp_path: Path) -> None:
    write_model(tmp_path / "models", "odd", CONFIGURATION, CODE)
    server = start_triton([tmp_path / "my-models", tmp_path / "models"], tmp_path / "triton.log")
    triton = Triton(server.url, timeout_seconds=20)
    try:
        served = triton.models()
    finally:
        triton.close()
        server.stop()

    assert served == {"odd": True}


def test_a_model_whose_code_tells_its_inputs_and_outputs_is_served_and_others_are_not_asked(
    server: TritonServer, tmp_path: Path
) -> None:
    volume = arrays()["volume"]
    folder = tmp_path / "models" / "selfmade" / "1"
    folder.mkdir(parents=True)
    (folder / "model.py").write_text(COMPLETES_ITSELF)
    other = start_triton([tmp_path / "models"], tmp_path / "triton.log")
    triton = Triton(other.url, timeout_seconds=20)
    try:
        labels = triton.infer("selfmade")({"volume": volume})["labels"]
    finally:
        triton.close()
        options = psutil.Process(other.pid).cmdline(), psutil.Process(server.pid).cmdline()
        other.stop()

    assert (labels == (volume > 0)).all()
    assert ["--disable-auto-complete-config" in one for one in options] == [False, True]


@pytest.mark.parametrize("model", ["broken", "unknown"])
def test_a_model_that_is_not_served_is_tried_again(client: Triton, model: str) -> None:
    with pytest.raises(ModelUnavailable):
        client.infer(model)(arrays())

    assert not client.ready(model)


def test_a_model_that_is_not_served_or_fails_is_told_with_the_log_of_the_embedded_triton(tmp_path: Path) -> None:
    write_model(tmp_path / "models", "odd", CONFIGURATION, CODE)
    write_model(tmp_path / "models", "broken", CONFIGURATION, "raise ImportError('no such library')")
    log_file = tmp_path / "triton.log"
    models = Models(TritonSection(environment=ENVIRONMENT), folders=[tmp_path / "models"], log_file=log_file)
    try:
        with pytest.raises(ModelUnavailable) as unserved:
            models.infer("broken")(arrays())
        with pytest.raises(BadModelOutput) as failed:
            models.infer("odd")(arrays(3))
    finally:
        models.stop()

    assert f"{log_file} says whether it could not be loaded" in str(unserved.value)
    assert f"{log_file} says why" in str(failed.value)


def test_arrays_that_the_model_does_not_take_are_told_with_what_came_and_what_was_expected(client: Triton) -> None:
    sent = {"volume": np.zeros(SMALL, np.float32), "mode": np.zeros(1, np.int32)}
    listed = {"volume": np.zeros(SMALL, np.int16), "mode": [0]}

    with pytest.raises(
        JobError, match=r"volume as int16 of shape \[-1, -1, -1\]; the pipeline sends float32 of shape \[3, 8, 9\]"
    ):
        client.infer("odd")(sent)
    with pytest.raises(JobError, match="mode as an array of numpy; the pipeline sends a list"):
        client.infer("odd")(listed)


def test_an_answer_that_the_model_does_not_promise_is_told_with_what_came_and_what_was_expected(client: Triton) -> None:
    with pytest.raises(BadModelOutput, match=r"output labels in the shape \[3, 8, 9\]; it came in \[2, 8, 9\]"):
        client.infer("odd")(arrays(1))
    with pytest.raises(BadModelOutput, match="output labels as UINT8; it came as INT8"):
        client.infer("odd")(arrays(9))


def test_a_version_that_is_gone_is_not_replaced_by_another(client: Triton) -> None:
    with pytest.raises(ModelUnavailable):
        client.infer("odd", "2")(arrays())


def test_models_that_cannot_be_loaded_are_told_from_those_that_can(client: Triton) -> None:
    assert {"broken": False, "odd": True} == client.models()
    assert client.ready("odd")


def test_eight_threads_get_their_own_answers(client: Triton) -> None:
    infer = client.infer("odd")
    sent = [arrays(shape=(17 + n, 128, 256)) for n in range(8)]
    answers: dict[int, np.ndarray] = {}
    threads = [threading.Thread(target=lambda n=n: answers.update({n: infer(sent[n])["labels"]})) for n in range(8)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert all(np.array_equal(sent[n]["volume"] > 0, answers[n]) for n in range(8))


def test_a_retrained_model_has_another_identity_under_the_same_version(server: TritonServer) -> None:
    weights = server.repositories[0] / "odd" / "1" / "weights.bin"
    identities = []
    for content in (b"one", b"two"):
        weights.write_bytes(content)
        identities.append(Triton(server.url, timeout_seconds=20, repositories=server.repositories).identity("odd"))
    weights.unlink()

    assert ("odd", "1") == (identities[0].name, identities[0].version)
    assert re.fullmatch("[0-9a-f]{64}", identities[0].weights)
    assert identities[0].weights != identities[1].weights


def test_elsewhere_the_configuration_stands_for_the_model(server: TritonServer) -> None:
    here, there = (Triton(server.url, timeout_seconds=20, repositories=paths) for paths in (server.repositories, ()))

    assert re.fullmatch("[0-9a-f]{64}", there.identity("odd").weights)
    assert here.identity("odd").weights != there.identity("odd").weights


def test_a_region_that_nobody_wrote_into_holds_no_answer() -> None:
    with sharedmemory.Region(2**20) as region:
        region.seal()
        unbroken = len(region.written())
        region.buffer[:] = bytes(2**20)

        assert (0, 2**20) == (unbroken, len(region.written()))


def test_regions_of_a_killed_gateway_are_removed_at_the_next_start() -> None:
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True)
    left = Path("/dev/shm") / f"gateway_triton_{ended.stdout.strip()}_left"
    left.write_bytes(b"x")
    with sharedmemory.Region(16) as ours:
        sharedmemory.forget_the_dead()

        assert (False, True) == (left.exists(), (Path("/dev/shm") / ours.name).exists())


def test_a_server_that_is_killed_midway_is_waited_for_and_leaves_nothing(tmp_path: Path) -> None:
    write_model(tmp_path / "models", "odd", CONFIGURATION, CODE)
    server = start_triton([tmp_path / "models"], tmp_path / "triton.log")
    processes = _processes(server)
    triton = Triton(server.url, timeout_seconds=20, shared_memory=True)
    threading.Timer(1, os.kill, (server.pid, signal.SIGKILL)).start()

    with pytest.raises(ModelUnavailable):
        triton.infer("odd")(arrays(4, LARGE))

    server.stop()
    assert len(processes) >= 2
    assert _gone(processes)
    assert list(Path("/dev/shm").glob(f"{sharedmemory.prefix()}server{id(server)}_*")) == []
    assert our_regions() == []


def test_a_killed_gateway_leaves_no_server_behind_even_while_a_model_works(tmp_path: Path) -> None:
    if not ENVIRONMENT.is_dir():
        pytest.skip("NVIDIA Triton is not installed")
    write_model(tmp_path / "models", "odd", CONFIGURATION, CODE.replace("time.sleep(3)", "time.sleep(300)"))
    program = (
        "import sys, threading, time; from pathlib import Path; from gateway.inference.tritonserver import TritonServer\n"
        "folder, environment = map(Path, sys.argv[1:])\n"
        "server = TritonServer([folder / 'models'], log_file=folder / 'triton.log', environment=environment)\n"
        "threading.Thread(target=server.start).start()\n"  # the thread that starts it ends before the gateway does
        "while not server.pid or not server.http_url: time.sleep(0.05)\n"
        "time.sleep(1); print(server.url, server.pid, flush=True); time.sleep(300)\n"
    )
    gateway = subprocess.Popen(
        [sys.executable, "-c", program, tmp_path, ENVIRONMENT], stdout=subprocess.PIPE, text=True, cwd=ENVIRONMENT.parent
    )
    url, pid = gateway.stdout.readline().split()
    triton = Triton(url, timeout_seconds=60)
    _until(lambda: triton.ready("odd"))
    errors: list[Exception] = []

    def ask() -> None:
        try:
            triton.infer("odd")(arrays(4))
        except ModelUnavailable as error:
            errors.append(error)

    busy = threading.Thread(target=ask)
    busy.start()
    time.sleep(0.5)
    processes = [psutil.Process(int(pid)), *psutil.Process(int(pid)).children(recursive=True)]

    gateway.kill()

    gateway.communicate()
    assert _gone(processes)
    busy.join(timeout=10)
    assert len(errors) == 1


def test_a_model_that_prints_without_end_does_not_fill_the_disk(tmp_path: Path) -> None:
    log_file = tmp_path / "chatty.log"
    chatty = "import time\nfor number in range(2000): print(f'{number:04}', 'x' * 3994, flush=True); time.sleep(0.0005)"
    with log_file.open("ab") as log, subprocess.Popen([sys.executable, "-c", chatty], stdout=log) as process:
        keep_short(log_file, process.pid, 500_000, look_milliseconds=10)

    kept = (tmp_path / "chatty.log.1").read_bytes() + log_file.read_bytes()
    assert process.wait() == 0
    assert 500_000 < len(kept) < 2000 * 4000
    assert kept[-4000:-3995] == b"1999 "


def test_a_triton_begins_with_a_short_log_and_keeps_what_the_long_one_held(tmp_path: Path) -> None:
    write_model(tmp_path / "models", "odd", CONFIGURATION, CODE)
    log_file = tmp_path / "triton.log"
    log_file.touch()
    os.truncate(log_file, 17 * 1024**2)

    start_triton([tmp_path / "models"], log_file).stop()

    assert 0 < log_file.stat().st_size < 1024**2
    assert (tmp_path / "triton.log.1").stat().st_size == 17 * 1024**2


def test_a_stopped_server_leaves_nothing(tmp_path: Path) -> None:
    write_model(tmp_path / "models", "odd", CONFIGURATION, CODE)
    server = start_triton([tmp_path / "models"], tmp_path / "triton.log")
    processes = _processes(server)
    alive = server.alive

    server.stop()
    server.stop()

    assert (True, False) == (alive, server.alive)
    assert _gone(processes)
    assert list(Path("/dev/shm").glob(f"{sharedmemory.prefix()}server{id(server)}_*")) == []
    assert ["models", "triton.log"] == sorted(path.name for path in tmp_path.iterdir())


@pytest.mark.parametrize(("said", "expected"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_of_a_model_that_wait_leave_the_processor_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str | None, expected: str
) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if said is not None:
        monkeypatch.setenv("OMP_WAIT_POLICY", said)

    write_model(tmp_path / "models", "odd", CONFIGURATION, CODE)
    server = start_triton([tmp_path / "models"], tmp_path / "triton.log")

    found = {process.environ().get("OMP_WAIT_POLICY") for process in _processes(server)}
    server.stop()

    assert found == {expected}


def test_model_code_does_not_get_the_gateways_passwords(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_DATABASE__URL", "CANARY")
    write_model(tmp_path / "models", "odd", CONFIGURATION, CODE)
    server = start_triton([tmp_path / "models"], tmp_path / "triton.log")

    environments = [process.environ() for process in _processes(server)]
    server.stop()

    assert environments
    assert not any("CANARY" in str(environment) for environment in environments)


def test_a_missing_server_says_what_to_do(tmp_path: Path) -> None:
    server = TritonServer([tmp_path], log_file=tmp_path / "triton.log", environment=tmp_path / "none")

    with pytest.raises(ConfigError, match="gateway models install-server"):
        server.start()


def test_no_server_at_all_is_tried_again() -> None:
    triton = Triton("127.0.0.1:9", timeout_seconds=5)

    with pytest.raises(ModelUnavailable):
        triton.models()

    assert not triton.ready("odd")


def _processes(server: TritonServer) -> list[psutil.Process]:
    triton = psutil.Process(server.pid)
    return [triton, *triton.children(recursive=True)]


def _gone(processes: list[psutil.Process]) -> bool:
    return psutil.wait_procs(processes, timeout=30)[1] == []


def _until(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)
