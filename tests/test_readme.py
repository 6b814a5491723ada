"""What the README says holds: its pipeline runs, its configuration and its rules load, its commands exist."""

import re
import tomllib
from pathlib import Path

import pytest
from pydicom import dcmread

from gateway.configuration import config
from gateway.decisions.rules import load
from gateway.inference.tritonserver import TritonServer
from gateway.peers import load_protocols, make_peer
from gateway.pipeline import load_pipelines
from tests.command_fixture import Command
from tests.conftest import ROOT
from tests.synthetic import ct_series
from tests.world import RULES, World

README = (ROOT / "README.md").read_text()
BLOCKS = dict(re.findall(r"`(my/[^`]+)`:\n\n```\w*\n(.*?)```", README, re.DOTALL))


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_example_pipeline_works_as_it_is_written(tmp_path: Path) -> None:
    for name, text in BLOCKS.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    settings = {"gateway": {"pipelines": [str(tmp_path / "my/pipelines")]}}
    rules = RULES.replace("pipeline: bright", "pipeline: bone")
    series = ct_series(6)
    for dataset in series:
        dataset.PixelData = (dataset.pixel_array + 400).clip(0, 3000).astype("<i2").tobytes()

    server = TritonServer([tmp_path / "my/models"], log_file=tmp_path / "triton.log", environment=ROOT / ".venv-triton")
    if not (ROOT / ".venv-triton").is_dir():
        pytest.skip("NVIDIA Triton is not installed: run `make triton`")
    with (
        server,
        World(tmp_path / "world", f"sqlite:///{tmp_path}/gateway.db", server.url, rules=rules, settings=settings) as world,
    ):
        world.start()
        assert world.send(series) == [0x0000] * 6
        world.wait_settled()

        held = [dcmread(path) for path in world.pacs_files()]

    assert sorted(dataset.Modality for dataset in held) == ["SEG", "SR"], world.log


def test_its_configuration_has_only_keys_that_exist() -> None:
    for text in blocks("toml"):
        parsed = config.parse(tomllib.loads(text), where="README")
        for peer in parsed.peers:
            make_peer(peer, protocols=load_protocols())


def test_its_rules_are_good_rules() -> None:
    text, prostate = blocks("yaml")
    tests = Path(__file__).parent
    pipelines = load_pipelines([tests.parent / "pipelines", tests / "pipelines"])

    rules = load(text + prostate, pipelines=pipelines, peers={"pacs", "archive", "research"}).rules

    assert [rule.name for rule in rules] == ["chest CT, lungs", "prostate"]
    assert rules[1].companions.keys() == {"adc", "dwi"}


def test_its_commands_exist(gateway: Command) -> None:
    commands = set(re.findall(r"^    (?:\.venv/bin/)?gateway ([a-z]+(?: [a-z-]+)?)", README, re.MULTILINE))

    for command in sorted(commands):
        words = command.split()
        while words:
            if gateway(" ".join(words), "--help").code == 0:
                break
            words = words[:-1]
        assert words, command


def test_its_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()

    for target in re.findall(r"(?<!tokens )\bmake ([a-z-]+)", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_files_it_names_exist() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        if "://" not in link:
            assert (ROOT / link).exists(), link
