"""gateway.toml: what is wrong is told at once and in words; environment variables override the file."""

from pathlib import Path

import pytest

from gateway.configuration.config import load, understood
from gateway.configuration.sections import Config
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
        ("xyz = 1", "[xyz]: unknown key; known are"),
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
        ("dimse = 3", "[dimse]: expected a section with keys"),
        ("[log]\nlevel = 'loud'", "[log] level: input should be 'debug', 'info', 'warning' or 'error'"),
        ("[triton]\nmodels = 'a'", "[triton] models: expected a list, in square brackets"),
        ("[triton]\nurl = 'http://gpu:8001'", '[triton] url: expected "embedded", or HOST:PORT'),
        ("[database]\nurl = 'mysql://h/d'", "[database] url: expected sqlite:///FILE or postgresql://"),
        ("[database]\nurl = 'postgresql://gw@db..hospital/d'", "[database] url: expected sqlite:///FILE or postgresql://"),
        ("[database]\nurl = 'postgresql://gw@db:port/d'", "[database] url: expected sqlite:///FILE or postgresql://"),
        ("[completeness]\nquiet_seconds = nan", "[completeness] quiet_seconds: input should be a finite number"),
        (
            "[completeness]\ndeadline_seconds = 1e15",
            "[completeness] deadline_seconds: expected at most 3155760000: a hundred years",
        ),
        ("[retention]\nsources_days = 99_999_999_999", "[retention] sources_days: expected at most 36525: a hundred years"),
        ("peers = 'pacs'", "[peers]: expected a list, in square brackets"),
    ],
)
def test_a_wrong_value_is_told_with_section_and_key(problems, text: str, problem: str) -> None:
    (found,) = problems(text)

    assert found.startswith(problem)


def test_everything_that_is_wrong_is_told_at_once(problems) -> None:
    text = "[dimse]\nport = -1\nae_titel = 'A'\n[log]\nlevel = 'loud'\n[[peers]]\nname = 'a'\n[[peers]]\nname = 'a'\n"

    assert len(problems(text, {"GATEWAY_DIMSE__HOSTT": "x"})) == 5


@pytest.mark.parametrize("title", ["", " A", "A ", "A\\B", "SEVENTEEN_LETTERS", "ÄRZTE", "A\tB", "../A", "a/../b"])
def test_an_ae_title_that_the_standard_forbids_is_refused(problems, title: str) -> None:
    expected = 'expected 1 to 16 printable ASCII characters, no backslash, no "../", no space at an end (PS3.5 6.2)'

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
        ("GATEWAY_DIMSE__CALLING_AE_TITLES", '["CT1"', "expected a list, in square brackets"),
        ("GATEWAY_PEERS__0__HOST", "x", "expected a key of a section: those of [[peers]] are set in the file alone"),
    ],
)
def test_a_wrong_environment_variable_is_told_by_its_own_name(problems, name: str, value: str, problem: str) -> None:
    (found,) = problems("[[peers]]\nname = 'a'\n", {name: value})

    assert found.startswith(f"{name}: {problem}")


def test_no_problem_quotes_a_value(problems) -> None:
    found = problems("[database]\nurl = 'mysql://user:SECRET@host/d'\n[dimse]\nport = 'SECRET'\n")

    assert len(found) == 2
    assert "SECRET" not in str(found)


TLS = "[tls]\ncertificate = 'c.pem'\nkey = 'c.key'\nauthorities = 'ca.pem'\n"


def test_the_door_has_limits_before_anybody_writes_one() -> None:
    dimse = load(None, {}).dimse

    assert (dimse.processes, dimse.tls_port, dimse.pdu_seconds, dimse.association_seconds) == (1, None, 30, 15)
    assert (dimse.maximum_per_address, dimse.maximum_half_open) == (64, 64)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[dimse]\nprocesses = 17", "[dimse] processes: input should be less than or equal to 16"),
        ("[dimse]\npdu_seconds = 0", "[dimse] pdu_seconds: input should be greater than 0"),
        ("[dimse]\nport = 2762\ntls_port = 2762\n" + TLS, "[dimse]: tls_port expects another port than port has"),
        ("[dimse]\ntls_port = 2762", "[dimse]: tls_port expects certificate, key and authorities in [tls]"),
        ("[tls]\ncertificate = 'c.pem'", "[tls]: expected certificate, key and authorities, all three or none"),
        ("[tls]\ncrl = 'crl.pem'", "[tls]: expected certificate, key and authorities, all three or none"),
        ("[tls]\nminimum_version = '1.1'", "[tls] minimum_version: input should be '1.2' or '1.3'"),
        ("[tls]\nauthority = 'ca.pem'", "[tls] authority: unknown key, did you mean 'authorities'?"),
        ("[[callers]]\ncalling_ae_title = 'CT1'", "[callers] 0 name: field required"),
        ("[[callers]]\nname = 'a'\ncalling_ae_titel = 'A'", "[callers] 0 calling_ae_titel: unknown key, did you mean 'calling_ae_title'?"),
        ("[[callers]]\nname = 'a'\ncalling_ae_title = ''", "[callers] 0 calling_ae_title 0: expected 1 to 16 printable"),
        ("[[callers]]\nname = 'a'\nnetworks = ['10.1.2.3/16']", "[callers] 0 networks 0: expected a network such as 10.1.0.0/16"),
        ("[[callers]]\nname = 'a'\nnetworks = []", "[callers] 0 networks: expected at least one, or no such key"),
        ("[[callers]]\nname = 'a'\nservices = ['find']", "[callers] 0 services 0: input should be 'echo', 'store', 'commitment' or 'procedure_step'"),
        ("[[callers]]\nname = 'a'\nsop_classes = ['CTimageStorage']", "[callers] 0 sop_classes 0: expected the UID or the keyword of a SOP class, did you mean 'CTImageStorage'?"),
        ("[[callers]]\nname = 'a'\nsop_classes = ['1.02']", "[callers] 0 sop_classes 0: expected the UID or the keyword of a SOP class"),
        ("[[callers]]\nname = 'a'\nsop_classes = ['ExplicitVRLittleEndian']", "[callers] 0 sop_classes 0: expected the UID or the keyword"),
        ("[[callers]]\nname = 'a'\nassociations_per_minute = 0", "[callers] 0 associations_per_minute: input should be greater"),
        ("[[callers]]\nname = 'a'\ncertificate_names = ['CT1']", "[callers]: certificate_names expect tls_port in [dimse]"),
        ("[[callers]]\nname = 'a'\n[[callers]]\nname = 'a'", "[callers]: expected names that no two callers share: a"),
        ("[dimse]\ncalling_ae_titles = ['a']\n[[callers]]\nname = 'a'", "[callers]: expected names that no two callers share: a"),
    ],
)  # fmt: skip
def test_a_mistake_about_who_may_come_in_is_told_in_a_sentence(problems, text: str, problem: str) -> None:
    (found,) = problems(text)

    assert found.startswith(problem)


def test_what_a_whole_section_lacks_is_not_blamed_on_a_variable_that_set_another_key(problems) -> None:
    assert problems("[dimse]\ntls_port = 2762\n", {"GATEWAY_DIMSE__HOST": "10.0.0.1"}) == [
        "[dimse]: tls_port expects certificate, key and authorities in [tls]"
    ]


def test_callers_become_the_policy_in_their_order_and_titles_without_more_follow_them(loaded) -> None:
    policy = loaded(
        "[dimse]\nae_title = 'GW'\ntls_port = 0\ncalling_ae_titles = ['US1', 'US1']\n"
        + TLS
        + "[[callers]]\nname = 'CT room 1'\ncalling_ae_title = 'CT1'\ncalled_ae_titles = ['GW_STAT']\n"
        "networks = ['10.1.0.0/16', 'fd00::/8']\ncertificate_names = ['ct1.hospital']\n"
        "sop_classes = ['CTImageStorage', '1.2.840.10008.5.1.4.1.1.4']\nservices = ['store']\nmegabytes_per_second = 1.5\n"
        "[[callers]]\nname = 'any'\ncalling_ae_title = ['MR1', 'MR2']\n"
    ).policy

    first, second, third = policy.callers
    assert policy.ae_title == "GW"
    assert (first.name, first.calling_ae_title, first.called_ae_titles) == ("CT room 1", {"CT1"}, {"GW_STAT"})
    assert [str(network) for network in first.networks or ()] == ["10.1.0.0/16", "fd00::/8"]
    assert (first.certificate_names, first.services, first.megabytes_per_second) == ({"ct1.hospital"}, {"store"}, 1.5)
    assert first.sop_classes == {"1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"}
    assert (second.calling_ae_title, second.networks, second.sop_classes) == ({"MR1", "MR2"}, None, None)
    assert (third.name, third.calling_ae_title) == ("US1", {"US1"})


def test_without_callers_the_policy_has_none(loaded) -> None:
    assert loaded("").policy.callers == ()


def test_a_configuration_that_came_by_json_is_the_same(loaded) -> None:
    config = loaded("[[callers]]\nname = 'a'\nsop_classes = ['CTImageStorage']\nnetworks = ['10.0.0.1']\n")

    assert Config.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize("wrong", ["[dimse]\ntls_port = 2762", "[tls]\nkey = 'k'", "[[callers]]\nname = 'a'\nnetworks = ['x']"])
def test_what_is_right_beside_a_mistake_about_who_may_come_in_is_understood(tmp_path: Path, wrong: str) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text(f"{wrong}\n[log]\nlevel = 'error'\n", "utf-8")

    config, found = understood(file, {})

    assert len(found) == 1
    assert config.log.level == "error"
