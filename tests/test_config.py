"""gateway.toml: what is wrong is told at once and in words; environment variables override the file."""

from pathlib import Path

import pytest

from gateway.config import Config, load
from gateway.errors import ConfigError


@pytest.fixture
def problems(tmp_path: Path):
    """The problems of a text as gateway.toml, without the file's name."""

    def of(text: str, environment: dict[str, str] | None = None) -> list[str]:
        file = tmp_path / "gateway.toml"
        file.write_text(text, "utf-8")
        with pytest.raises(ConfigError) as raised:
            load(file, environment or {})
        return [problem.removeprefix(f"{file}: ") for problem in raised.value.problems]

    return of


@pytest.fixture
def loaded(tmp_path: Path):
    def of(text: str, environment: dict[str, str] | None = None) -> Config:
        file = tmp_path / "gateway.toml"
        file.write_text(text, "utf-8")
        return load(file, environment or {})

    return of


def test_without_a_file_there_are_defaults_that_listen_on_this_machine_only() -> None:
    config = load(None, {})

    assert (config.dimse.host, config.dimse.port, config.dimse.ae_title) == ("127.0.0.1", 11112, "AIGATEWAY")
    assert config.database_url == "sqlite:///var/gateway.db"
    assert config.triton.environment is None


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.toml: cannot be read: No such file or directory"):
        load(tmp_path / "absent.toml", {})


def test_broken_toml_is_told_with_its_line(problems) -> None:
    assert problems('[dimse]\nport = 1\nhost "x"\n') == [
        "expected TOML: expected '=' after a key in a key/value pair (at line 3, column 6)"
    ]


def test_a_file_that_is_no_text_is_told(tmp_path: Path) -> None:
    (tmp_path / "gateway.toml").write_bytes(b"\xff\xfe\x00")

    with pytest.raises(ConfigError, match="expected TOML"):
        load(tmp_path / "gateway.toml", {})


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[dimse]\nae_titel = 'A'", "[dimse] ae_titel: unknown key, did you mean 'ae_title'?"),
        ("[dimze]\nport = 1", "[dimze]: unknown key, did you mean 'dimse'?"),
        ("[log]\nxyz = 1", "[log] xyz: unknown key; known are format, level"),
        ("port = 1", "[port]: unknown key; known are"),
    ],
)
def test_an_unknown_key_is_told_with_the_one_that_was_meant(problems, text: str, problem: str) -> None:
    (found,) = problems(text)

    assert found.startswith(problem)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[dimse]\nport = 'eleven'", "[dimse] port: input should be a valid integer"),
        ("[dimse]\nport = 70000", "[dimse] port: input should be less than or equal to 65535"),
        ("dimse = 3", "[dimse]: input should be a valid dictionary or instance of DimseSection"),
        ("[log]\nlevel = 'loud'", "[log] level: input should be 'debug', 'info', 'warning' or 'error'"),
        ("[triton]\nmodels = 'a'", "[triton] models: input should be a valid tuple"),
        ("[triton]\nurl = 'http://gpu:8001'", '[triton] url: expected "embedded", or HOST:PORT'),
        ("[database]\nurl = 'mysql://h/d'", "[database] url: expected sqlite:///FILE or postgresql://"),
        ("[completeness]\nquiet_seconds = nan", "[completeness] quiet_seconds: input should be a finite number"),
        ("peers = 'pacs'", "[peers]: input should be a valid tuple"),
    ],
)
def test_a_wrong_value_is_told_with_section_and_key(problems, text: str, problem: str) -> None:
    (found,) = problems(text)

    assert found.startswith(problem)


def test_everything_that_is_wrong_is_told_at_once(problems) -> None:
    text = "[dimse]\nport = -1\nae_titel = 'A'\n[log]\nlevel = 'loud'\n[[peers]]\nname = 'a'\n[[peers]]\nname = 'a'\n"

    assert len(problems(text, {"GATEWAY_DIMSE__HOSTT": "x"})) == 5


@pytest.mark.parametrize("title", ["", " A", "A ", "A\\B", "SEVENTEEN_LETTERS", "ÄRZTE", "A\tB"])
def test_an_ae_title_that_the_standard_forbids_is_refused(problems, title: str) -> None:
    expected = "expected 1 to 16 printable ASCII characters, no backslash, no space at an end (PS3.5 6.2)"

    assert problems("", {"GATEWAY_DIMSE__AE_TITLE": title}) == [f"GATEWAY_DIMSE__AE_TITLE: {expected}"]
    assert problems(f"[dimse]\ncalling_ae_titles = ['CT1', '{title}']") == [f"[dimse] calling_ae_titles 1: {expected}"]


@pytest.mark.parametrize("title", ["A", "SIXTEEN-LETTERS!", "CT 1", "1"])
def test_an_ae_title_that_the_standard_allows_is_taken(loaded, title: str) -> None:
    assert loaded(f"[dimse]\nae_title = '{title}'").dimse.ae_title == title


def test_two_peers_cannot_share_a_name(problems) -> None:
    text = "".join(f"[[peers]]\nname = '{name}'\n" for name in ("a", "b", "a", "c", "c"))

    assert problems(text) == ["[peers]: expected names that no two peers share: a, c"]


def test_the_keys_of_a_peer_are_left_to_its_protocol(loaded) -> None:
    assert loaded("[[peers]]\nnaem = 'a'\n").peers == ({"naem": "a"},)


def test_environment_variables_override_the_file(loaded) -> None:
    environment = {
        "GATEWAY_DIMSE__PORT": "11113",
        "GATEWAY_DIMSE__AE_TITLE": "1234",
        "GATEWAY_DIMSE__CALLING_AE_TITLES": '["CT1", "CT2"]',
        "GATEWAY_TRITON__SHARED_MEMORY": "true",
        "GATEWAY_COMPLETENESS__QUIET_SECONDS": "0.5",
        "GATEWAY_GATEWAY__DATA_DIR": "/srv/gateway",
        "GATEWAY_CONFIG": "not a key",
        "PATH": "neither",
    }

    config = loaded("[dimse]\nport = 1\nhost = '10.0.0.1'\n", environment)

    assert (config.dimse.port, config.dimse.host, config.dimse.ae_title) == (11113, "10.0.0.1", "1234")
    assert config.dimse.calling_ae_titles == ("CT1", "CT2")
    assert config.triton.shared_memory is True
    assert config.completeness.quiet_seconds == 0.5
    assert config.gateway.data_dir == Path("/srv/gateway")


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("GATEWAY_DIMSE__PROT", "1", "unknown key, did you mean 'port'?"),
        ("GATEWAY_DIMZE__PORT", "1", "unknown key, did you mean 'dimse'?"),
        ("GATEWAY_DIMSE__PORT", "", "input should be a valid integer"),
        ("GATEWAY_DIMSE__CALLING_AE_TITLES", '["CT1"', "input should be a valid tuple"),
        ("GATEWAY_PEERS__0__HOST", "x", "input should be a valid tuple"),
    ],
)
def test_a_wrong_environment_variable_is_told_by_its_own_name(problems, name: str, value: str, problem: str) -> None:
    (found,) = problems("[[peers]]\nname = 'a'\n", {name: value})

    assert found.startswith(f"{name}: {problem}")


def test_no_problem_quotes_a_value(problems) -> None:
    found = problems("[database]\nurl = 'mysql://user:SECRET@host/d'\n[dimse]\nport = 'SECRET'\n")

    assert len(found) == 2
    assert "SECRET" not in str(found)
