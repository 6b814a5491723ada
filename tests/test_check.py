"""`gateway check` tells everything that is wrong, and says ok of everything that is in order."""

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydicom.uid import Comprehensive3DSRStorage, SecondaryCaptureImageStorage
from pynetdicom import build_context
from sqlalchemy import make_url, text

from gateway.acts import rulebook
from gateway.auditing.seal import heads_file
from gateway.commands.check import check_all
from gateway.configuration.config import load
from gateway.db import open_database, open_engine, takes_writes
from gateway.migrations import upgrade
from gateway.serving.hosts import share
from tests.certificates import Authority
from tests.door_fixture import Place, scanner
from tests.peers_fixture import running_orthanc, running_scp, running_storescp
from tests.ports import free_port
from tests.synthetic import ct_series
from tests.test_priors_move import archive, sending
from tests.world import HERE

RULES = """\
rules:
  - name: chest CT
    when:
      all:
        - {attribute: Modality, is: CT}
    pipeline: ct_lung
    send_to: [pacs]
"""


@pytest.fixture
def checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What is in order and what is wrong with a text as gateway.toml, in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def check(text: str, *, rules: str | None = RULES) -> tuple[list[str], list[str]]:
        Path("gateway.toml").write_text(text)
        if rules is not None:
            Path("rules.yaml").write_text(rules)
        found = check_all(Path("gateway.toml"))
        return [one.text for one in found if one.good], [one.text for one in found if not one.good]

    return check


def dimse(name: str, port: int, ae_title: str = "SCP") -> str:
    return f'[[peers]]\nname = "{name}"\nprotocol = "dimse"\nhost = "127.0.0.1"\nport = {port}\nae_title = "{ae_title}"\ntimeout_seconds = 5\n'


def test_a_configuration_in_order_is_ok_in_every_part_and_nothing_is_made(checked, triton: str, tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    with running_scp() as scp:
        text = f'[triton]\nurl = "{triton}"\n' + dimse("pacs", scp.port)
        good, wrong = checked(text + '[[peers]]\nname = "disk"\nprotocol = "folder"\npath = "results"\n')

    assert wrong == []
    assert good[:5] == [
        "gateway.toml: every key is known",
        "data_dir var: can be written, will be made",
        "database: SQLite in var/gateway.db, will be made",
        "pipelines: ct_lung",
        "rules.yaml: 1 rules: chest CT",
    ]
    assert good[5].startswith("peer pacs: answered C-ECHO in")
    assert good[6:] == ["peer disk: the folder can be written; deliveries are proved by read-back", "model ct_lung: served"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gateway.toml", "results", "rules.yaml"]


def test_everything_that_is_wrong_is_told_at_once(checked, tmp_path: Path) -> None:
    rules = RULES.replace("Modality, is", "Modalitee, is").replace("[pacs]", "[pacs, nowhere]")
    text = (
        f'[gateway]\npipelines = ["{HERE / "pipelines"}"]\ndata_dir = "{tmp_path / "gateway.toml" / "var"}"\n'
        f'[database]\nurl = "postgresql:///d?host={tmp_path}"\n[triton]\nenvironment = "nowhere"\n'
        f'{dimse("pacs", free_port())}[[peers]]\nname = "badly"\nprotocol = "dimse"\nhots = "x"\n'
    )

    good, wrong = checked(text, rules=rules)

    expected = (
        "data_dir", "database: PostgreSQL does not answer", "peer badly: hots: not a key", "peer badly: host: expected", "line 5",
        "line 7", "peer pacs: no connection: connection refused", "NVIDIA Triton is not installed",
        "model bright: missing in the model folders; pipeline bright needs it",
    )  # fmt: skip
    for sentence in expected:
        assert any(sentence in problem for problem in wrong), (sentence, wrong)
    assert "model ct_lung: served" in good


def test_wrong_keys_are_told_and_the_rest_is_checked_all_the_same(checked, triton: str) -> None:
    text = f'[dimse]\nprot = 1\nae_title = ""\n[triton]\nurl = "{triton}"\n'

    good, wrong = checked(text + dimse("pacs", free_port()), rules=RULES.replace("ct_lung", "ct_lungs"))

    expected = (
        "gateway.toml: [dimse] prot: unknown key, did you mean 'port'?", "gateway.toml: [dimse] ae_title: expected",
        "rules.yaml: line 6", "peer pacs: no connection",
    )  # fmt: skip
    for sentence in expected:
        assert any(problem.startswith(sentence) for problem in wrong), (sentence, wrong)
    assert len(wrong) == len(expected)
    assert "model ct_lung: served" in good


def test_peers_that_share_a_name_are_told_and_the_rest_is_checked_all_the_same(checked, triton: str) -> None:
    good, wrong = checked(
        f'[triton]\nurl = "{triton}"\n' + dimse("pacs", 1) + dimse("pacs", 2), rules=RULES.replace("ct_lung", "ct_lungs")
    )

    assert any("expected names that no two peers share" in problem for problem in wrong)
    assert any(problem.startswith("rules.yaml: line 6") for problem in wrong)
    assert "model ct_lung: served" in good


def test_a_rule_is_told_by_file_line_and_name_and_the_rest_is_checked_all_the_same(checked, triton: str) -> None:
    with running_scp() as scp:
        good, wrong = checked(
            f'[triton]\nurl = "{triton}"\n' + dimse("pacs", scp.port), rules=RULES.replace("ct_lung", "ct_lungs")
        )

    assert len(wrong) == 1
    assert wrong[0].startswith("rules.yaml: line 6, rule 'chest CT': expected pipeline")
    assert any(text.startswith("peer pacs: answered") for text in good)
    assert "model ct_lung: served" in good


def test_a_database_that_is_gone_is_not_made_to_be_asked_for_its_trail(checked, tmp_path: Path) -> None:
    (tmp_path / "gateway.toml").write_text("")
    heads = tmp_path / heads_file(load(tmp_path / "gateway.toml"))
    heads.parent.mkdir(parents=True)
    heads.touch()

    checked("")

    assert not (tmp_path / "var" / "gateway.db").exists()


def test_a_watched_folder_that_is_not_there_is_told(checked, tmp_path: Path) -> None:
    (tmp_path / "inbox").mkdir()

    good, wrong = checked('[[folders]]\npath = "inbox"\n[[folders]]\npath = "inbx"\n')

    assert "[[folders]] inbox: is watched" in good
    assert "[[folders]] inbx: there is no such folder" in wrong


def test_a_peer_that_is_to_prove_by_query_and_cannot_be_asked_is_wrong(checked) -> None:
    with running_scp(finds=False) as scp:
        good, wrong = checked(dimse("pacs", scp.port), rules=None)
        mended, _ = checked(dimse("pacs", scp.port) + 'proof = "none"\n', rules=None)

    assert [text for text in wrong if text.startswith("peer pacs: ") and 'set proof = "commitment" or "none"' in text]
    assert not any(text.startswith("peer pacs") for text in good)
    assert any(text.startswith("peer pacs: answered C-ECHO") for text in mended)


def test_a_store_that_cannot_be_made_or_has_no_room_is_told(checked, tmp_path: Path) -> None:
    _, wrong = checked('[store]\nfolder = "/proc/gateway/store"\n', rules=None)
    good, full = checked(f'[store]\nfolder = "big"\nkeep_free_bytes = {2**60}\n', rules=None)

    assert any(text.startswith("[store] folder /proc/gateway/store: /proc cannot be written: ") for text in wrong)
    assert "[store] folder big: can be written, will be made" in good
    (room,) = (text for text in full if text.startswith("store big: "))
    assert room.endswith("GiB are free, and [store] keep_free_bytes are 1073741824.0 GiB: senders are told to come again")


def test_an_address_that_is_not_this_machines_and_a_port_that_two_want_are_told(checked) -> None:
    _, wrong = checked('[dimse]\nhost = "192.0.2.1"\n[dicomweb]\nport = 8080\n', rules=None)
    _, other = checked('[dimse]\nport = 8080\nhost = "0.0.0.0"\n', rules=None)
    _, none = checked("[dimse]\nport = 0\n[web]\nport = 0\n", rules=None)

    assert any(text.startswith("[dimse] host 192.0.2.1: nobody can listen there on this machine: ") for text in wrong)
    assert "[web] port and [dicomweb] port are both 8080: expected one of its own for each" in wrong
    assert "[dimse] port and [web] port are both 8080: expected one of its own for each" in other
    assert not any("expected one of its own" in text or "nobody can listen" in text for text in none)


def test_certificates_and_revocation_lists_whose_time_is_over_are_told(checked, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    tls = '[tls]\ncertificate = "{0.certificate}"\nkey = "{0.key}"\nauthorities = "{1}"\ncrl = "{2}"\n'

    good, _ = checked(tls.format(authority.issue("now"), authority.certificate, authority.crl()), rules=None)
    over = authority.issue("over", expired=True)
    _, wrong = checked(tls.format(over, authority.certificate, authority.crl(expired=True)), rules=None)

    today = datetime.now(UTC)
    until = f"{today - timedelta(2):%Y-%m-%d} until {today - timedelta(1):%Y-%m-%d} "
    assert [text.split(":")[0] for text in good if text.startswith("[tls]")] == [
        f"[tls] certificate {tmp_path}/ca/now-1.pem", f"[tls] crl {tmp_path}/ca/crl-1.pem",
    ]  # fmt: skip
    assert any(text.startswith(f"[tls] certificate {over.certificate}: good from {until}") for text in wrong)
    assert any(text.startswith(f"[tls] crl {tmp_path}/ca/crl-2.pem: good until ") for text in wrong)


@pytest.fixture
def in_force(tmp_path: Path) -> None:
    """RULES, in the database that gateway.toml has by default."""
    (tmp_path / "var").mkdir(0o750)
    engine = open_engine(f"sqlite:///{tmp_path / 'var' / 'gateway.db'}")
    upgrade(engine)
    engine.dispose()
    db = open_database(f"sqlite:///{tmp_path / 'var' / 'gateway.db'}")
    (tmp_path / "first.yaml").write_text(RULES)
    rulebook.begin(db, tmp_path / "first.yaml", pipelines=["ct_lung"], peers=["pacs"], now=datetime.now(UTC))
    db.kw["bind"].dispose()


def test_rules_that_are_not_those_in_force_are_told(checked, in_force: None) -> None:
    same, wrong = checked(dimse("pacs", free_port()))
    other, _ = checked(dimse("pacs", free_port()), rules=RULES.replace("is: CT", "is: MR"))

    assert not any(text.startswith("rules") for text in wrong)
    assert "rules.yaml: 1 rules: chest CT" in same
    differs = "rules: version 1, which is in force, says something else than rules.yaml: `gateway rules plan` shows what"
    assert differs in other
    assert differs not in same


def test_rules_in_force_that_cannot_be_followed_are_told_also_without_the_file(checked, in_force: None) -> None:
    _, wrong = checked(dimse("other", free_port()), rules=None)
    good, mended = checked(dimse("pacs", free_port()), rules=None)

    (problem,) = (text for text in wrong if text.startswith("rules"))
    assert problem.startswith("rules: version 1, which is in force: rule 'chest CT': ")
    assert not any(text.startswith("rules") for text in mended)
    assert "rules: version 1, which is in force: 1 rules" in good


def test_without_rules_nothing_is_worked_on_and_that_is_told(checked) -> None:
    _, wrong = checked("", rules=None)

    assert wrong[0] == "rules.yaml: there is no such file: series are kept, none is worked on"


def test_a_pipeline_that_cannot_be_loaded_is_told_and_the_others_stay(checked, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "broken.py").write_text("import nothing_of_this_name\n")

    good, wrong = checked('[gateway]\npipelines = ["mine"]\n', rules=None)

    assert any("mine/broken.py" in problem for problem in wrong)
    assert "pipelines: ct_lung" in good


def test_a_pipeline_that_cannot_be_loaded_does_not_make_its_rules_wrong(checked, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "broken.py").write_text("import nothing_of_this_name\n")
    rules = RULES.replace(", is: CT", ", is: MR").replace("ct_lung", "broken") + RULES.removeprefix("rules:\n").replace(
        "chest", "other"
    )
    peer = '[[peers]]\nname = "pacs"\nprotocol = "folder"\npath = "mine"\n'

    _, wrong = checked('[gateway]\npipelines = ["mine"]\n' + peer, rules=rules)

    assert [problem for problem in wrong if "rules.yaml" in problem] == []


def test_folders_of_pipelines_and_models_that_are_not_there_are_told_and_the_others_count(checked) -> None:
    good, wrong = checked('[gateway]\npipelines = ["my-pipelines"]\n[triton]\nmodels = ["my-models"]\n', rules=None)

    assert "my-pipelines: there is no such folder of pipelines" in wrong
    assert "[triton] models my-models: there is no such folder" in wrong
    assert "model ct_lung: served" in good


@pytest.mark.parametrize(
    ("configuration", "code", "said"),
    [
        ('name: "bright"\nbackend: "python"\n', "1/model.py", ""),
        ("", "1/model.py", ""),
        ('backend: "onnxruntime"\n', "1/model.onnx", 'expected backend "python"'),
        ('platform: "pytorch_libtorch"\n', "1/model.pt", 'expected backend "python"'),
        ("", "1/model.onnx", 'expected backend "python"'),
        ('platform: "ensemble"\n', "1/keep", ""),
        ('backend: "python"\n', "model.py", "expected a folder of its version"),
        ('name: "bone"\nbackend: "python"\ninput [{\n  name: "volume"\n}]', "1/model.py", "expected the name of its folder"),
    ],
)
def test_a_model_that_the_embedded_triton_cannot_load_is_told(
    checked, tmp_path: Path, configuration: str, code: str, said: str
) -> None:
    file = tmp_path / "mine" / "bright" / code
    file.parent.mkdir(parents=True)
    file.touch()
    (tmp_path / "mine" / "bright" / "config.pbtxt").write_text(configuration)

    good, wrong = checked(f'[gateway]\npipelines = ["{HERE / "pipelines"}"]\n[triton]\nmodels = ["mine"]\n', rules=None)

    told = {text for text in wrong if text.startswith("model bright: ")}
    assert ("model bright: served" in good) == (not said)
    assert len(told) == bool(said)
    assert all(said in text for text in told)


def test_a_model_that_is_there_twice_is_told(checked, tmp_path: Path) -> None:
    for name in ("mine", "theirs"):
        (tmp_path / name / "bright" / "1").mkdir(parents=True)

    _, wrong = checked(f'[gateway]\npipelines = ["{HERE / "pipelines"}"]\n[triton]\nmodels = ["mine", "theirs"]\n', rules=None)

    assert "model bright: expected in one of the model folders: it is in 2" in wrong


def test_real_peers_answer(checked, tmp_path: Path) -> None:
    (tmp_path / "storescp").mkdir()
    (tmp_path / "orthanc").mkdir()
    with (
        running_storescp(tmp_path / "storescp") as storescp,
        running_orthanc(tmp_path / "orthanc", DicomAlwaysAllowEcho=True) as orthanc,
    ):
        web = f'[[peers]]\nname = "web"\nprotocol = "dicomweb"\nurl = "{orthanc.dicomweb}"\n'
        good, wrong = checked(
            dimse("pacs", storescp) + 'proof = "none"\n' + dimse("orthanc", orthanc.dicom_port, "ORTHANC") + web
        )

    told = [text for text in good if text.startswith("peer ")]
    assert [text.split(":")[0] for text in told] == ["peer pacs", "peer orthanc", "peer web"]
    assert not any(text.startswith("peer") for text in wrong)


def test_a_triton_that_is_not_there_is_told(checked) -> None:
    url = f"127.0.0.1:{free_port()}"

    _, wrong = checked(f'[triton]\nurl = "{url}"\n', rules=None)

    assert any(problem.startswith(f"Triton at {url}: ") for problem in wrong)


def test_a_model_that_triton_does_not_serve_is_told(checked, triton: str, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "mine.py").write_text(
        (HERE / "pipelines" / "bright.py").read_text().replace('model="bright"', 'model="absent"')
    )

    _, wrong = checked(f'[gateway]\npipelines = ["mine"]\n[triton]\nurl = "{triton}"\n', rules=None)

    assert f"model absent: missing in Triton at {triton}; pipeline mine needs it" in wrong


def test_a_postgresql_that_answers_is_ok_with_the_state_of_its_tables(checked, postgres: str) -> None:
    good, _ = checked(f'[database]\nurl = "{postgres}"\n')

    assert any(text.startswith("database: PostgreSQL has ") for text in good)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_postgresql_that_can_only_be_read_is_wrong(checked, database_url: str) -> None:
    name = make_url(database_url).database
    engine = open_engine(database_url)
    assert takes_writes(engine)
    with engine.begin() as connection:
        connection.execute(text(f"ALTER DATABASE {name} SET default_transaction_read_only = on"))
    engine.dispose()

    _, wrong = checked(f'[database]\nurl = "{database_url}"\nunsafe = true\n', rules=None)

    assert "database: PostgreSQL can only be read: it is a standby, or is told so" in wrong
    assert not takes_writes(engine)
    engine.dispose()


def test_a_store_that_is_not_the_one_of_the_database_is_wrong(checked, database_url: str, tmp_path: Path) -> None:
    text = f'[database]\nurl = "{database_url}"\nunsafe = true\n[store]\nfolder = "store"\n'
    (tmp_path / "mounted").mkdir()
    assert not [problem for problem in checked(text, rules=None)[1] if "store" in problem]  # nobody has served yet
    db = open_database(database_url)
    share(tmp_path / "mounted", db=db)
    db.kw["bind"].dispose()

    _, wrong = checked(text, rules=None)
    _, same = checked(text.replace('"store"', '"mounted"'), rules=None)

    expected = "[store] folder store: expected the folder in which all files of this database are"
    assert [one for one in wrong if one.startswith(expected)]
    assert not [problem for problem in same if "store" in problem]
    assert not (tmp_path / "store").exists()


def test_a_store_that_is_older_than_the_database_is_wrong(checked, tmp_path: Path) -> None:
    text = f'[database]\nurl = "sqlite:///{tmp_path}/gateway.db"\n[store]\nfolder = "store"\n'
    place = Place(f"sqlite:///{tmp_path / 'gateway.db'}", tmp_path)
    origin, series = scanner(), ct_series(3)
    for ds in series:
        place.bring(ds, origin)
    place.file()
    assert not [problem for problem in checked(text, rules=None)[1] if problem.startswith("store store: ")]
    for path in sorted((tmp_path / "store").glob("??/*.dcm"))[:2]:
        path.unlink()

    _, wrong = checked(text, rules=None)

    assert [problem for problem in wrong if problem.startswith("store store: 2 instances of the latest series have no file: ")]
    place.close()


def test_a_database_of_a_newer_gateway_is_wrong(checked, tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path / 'gateway.db'}")
    upgrade(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE gw_schema_version SET version_num = '9999'")
    engine.dispose()

    _, wrong = checked(f'[database]\nurl = "sqlite:///{tmp_path / "gateway.db"}"\n')

    assert f"database: SQLite in {tmp_path / 'gateway.db'} was made by a newer gateway: use that version" in wrong


def test_a_database_in_a_folder_that_nobody_makes_is_wrong(checked, tmp_path: Path) -> None:
    file = tmp_path / "nowhere" / "gateway.db"

    _, wrong = checked(f'[database]\nurl = "sqlite:///{file}"\n')

    assert f"database: SQLite in {file}: there is no folder {file.parent}" in wrong


def test_a_file_that_is_no_database_is_wrong(checked, tmp_path: Path) -> None:
    (tmp_path / "letter").write_text("dear reader, " * 100)

    _, wrong = checked(f'[database]\nurl = "sqlite:///{tmp_path / "letter"}"\n')

    assert "database: this file is no database, or cannot be used (DatabaseError): check [database] url" in wrong


def test_a_data_folder_that_cannot_be_written_is_wrong(checked) -> None:
    _, wrong = checked('[gateway]\ndata_dir = "/proc/gateway/var"\n')

    assert any(text.startswith("data_dir /proc/gateway/var: /proc cannot be written: ") for text in wrong)


def test_a_data_folder_below_a_file_is_wrong(checked) -> None:
    _, wrong = checked('[gateway]\ndata_dir = "gateway.toml/var"\n')

    assert any(text.startswith("data_dir gateway.toml/var: ") and text.endswith("is no folder") for text in wrong)


def test_the_embedded_triton_is_looked_for_beside_our_own_environment_whatever_the_folder(checked, monkeypatch) -> None:
    monkeypatch.setattr(sys, "prefix", "/opt/gateway/.venv")

    _, wrong = checked("", rules=None)

    assert any("/opt/gateway/.venv-triton" in problem for problem in wrong)


def test_a_data_folder_that_everybody_may_look_into_is_told(checked, tmp_path: Path) -> None:
    folder = tmp_path / "var"
    folder.mkdir()
    folder.chmod(0o755)

    _, wrong = checked("")
    folder.chmod(0o750)
    _, mended = checked("")

    assert [one for one in wrong if one not in mended] == [
        "data_dir var: everybody on this machine may look into it, at images and passwords: chmod o-rwx var"
    ]


def test_what_a_peer_of_a_rule_does_not_take_is_told_with_the_line_that_leaves_it_out(checked) -> None:
    def told(*more: str) -> list[str]:
        _, wrong = checked("\n".join((dimse("pacs", scp.port), *more)))
        return [one for one in wrong if one.startswith("peer pacs")]

    pictures, kinds = "[delivery]\npictures = true", 'objects = ["reports", "pictures"]'
    with running_scp(contexts=[build_context(one) for one in (Comprehensive3DSRStorage, SecondaryCaptureImageStorage)]) as scp:
        (refused,) = told()
        assert refused.startswith(f"peer pacs: does not accept Segmentation Storage: its table leaves them out with {kinds}")
        assert told(kinds, pictures) == []
        assert told(kinds) == ["peer pacs: objects: expected [delivery] pictures = true: else there are none"]
    assert len(told()) == 1, "that it does not answer is told once"


def test_a_peer_that_is_to_send_us_series_says_what_it_needs_and_what_keeps_it_from_that(checked) -> None:
    def fetch(port: int, more: str = "") -> list[list[str]]:
        good, wrong = checked(f'{more}{dimse("pacs", port, "SLOW")}fetch = "move"\n', rules=None)
        return [[one for one in found if one.startswith("peer pacs: fetch")] for found in (good, wrong)]

    with archive(sending(0, status=0xC000)) as port:
        needs = "peer pacs: fetch: it needs this machine's host and port 11113 for our AE title OURS"
        assert fetch(port, '[dimse]\nae_title = "OURS"\nport = 11113\n') == [[needs], []]
        callers = "peer pacs: fetch: expected [[callers]] to let AE title SLOW store: it sends series to us"
        assert fetch(port, '[dimse]\ncalling_ae_titles = ["CT1"]\n') == [[], [callers]]
    with archive(sending(0, status=0xA801)) as port:
        good, (wrong,) = fetch(port)
        assert good == []
        assert wrong.startswith("peer pacs: fetch: the peer knows no Move Destination of that name (0xA801)")
    assert fetch(port) == [[], []], "that it does not answer at all is told once, and not of this too"
