"""Every command as its user runs it: what is printed, where, and with which exit code."""

import json
import os
import pwd
import re
import signal
import socket
import subprocess
import sys
from getpass import getuser
from io import StringIO
from pathlib import Path

import pytest
from sqlalchemy import make_url, text

from gateway.db import open_database
from tests.command_fixture import Ran
from tests.peers_fixture import running_scp, stored
from tests.ports import free_port
from tests.rows_fixture import OUTPUT, SERIES, STUDY, a_delivery, a_job, a_series
from tests.synthetic import ct_series
from tests.world import World

COMMANDS = (
    "serve", "demo", "check", "send", "series list", "series show", "jobs list", "jobs show", "jobs retry", "jobs cancel",
    "deliveries list", "deliveries show", "deliveries retry", "deliveries cancel", "peers list", "peers show", "peers add", "peers change", "peers disable",
    "peers enable", "peers remove", "peers retire", "peers probe", "peers echo", "audit list",
    "audit show", "audit export", "audit verify",
    "models list", "models install-server", "models import", "rules check", "db upgrade", "users list", "users add", "users role", "users disable",
    "users enable", "users password", "tokens list", "tokens make", "tokens revoke",
)  # fmt: skip
ASKING = ("series list", "series show 1.2", "jobs list", "jobs show 1", "jobs retry 1", "jobs cancel 1", "deliveries list",
          "deliveries show 1", "deliveries retry 1", "deliveries cancel 1", "audit list", "audit show 1.2", "audit export",
          "audit verify")  # fmt: skip


@pytest.fixture
def db(db, database_url: str, tmp_path: Path):
    """The database of the gateway.toml in that folder."""
    (tmp_path / "gateway.toml").write_text(f'[database]\nurl = "{database_url}"\n')
    return db


def write(path: Path, text: str) -> None:
    (path / "gateway.toml").write_text(text)


@pytest.mark.parametrize("command", ["", *COMMANDS, "series", "jobs", "deliveries", "peers", "audit", "models", "rules", "db"])
def test_every_command_explains_itself(gateway, command: str) -> None:
    ran = gateway(f"{command} --help")

    assert (ran.code, ran.err) == (0, "")
    assert f"Usage: gateway {command}".strip() in ran.out
    assert max(map(len, ran.out.splitlines())) <= 80


def test_the_version_is_told(gateway) -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*\n", gateway("--version").out)


@pytest.mark.parametrize(
    "command",
    ["serv", "jobs shw 1", "jobs show", "jobs show one", "jobs list --limit 0", "send", "send absent", "jobs list --stat x"],
)
def test_a_wrong_command_is_refused_without_a_traceback(gateway, command: str) -> None:
    ran = gateway(command)

    assert ran.code == 2
    assert "Usage: gateway" in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize("command", ASKING)
def test_where_no_gateway_ever_served_that_is_told_and_nothing_is_made(gateway, command: str, tmp_path: Path) -> None:
    ran = gateway(command)

    assert (ran.code, ran.out) == (1, "")
    assert ran.err == "database: var/gateway.db is not there: run `gateway serve` first, or name its gateway.toml with --config\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ASKING)
def test_a_database_that_does_not_answer_is_told(gateway, command: str, tmp_path: Path) -> None:
    write(tmp_path, f'[database]\nurl = "postgresql://user:SECRET@/d?host={tmp_path}"\n')

    ran = gateway(command)

    assert (ran.code, ran.out) == (1, "")
    assert ran.err == "database: PostgreSQL does not answer (OperationalError): check [database] url\n"


@pytest.mark.parametrize("command", ["jobs show", "jobs retry", "deliveries cancel", "audit list --job", "rules show"])
def test_a_number_that_no_row_can_have_is_refused_in_words(gateway, database_url: str, command: str, tmp_path: Path) -> None:
    write(tmp_path, f'[database]\nurl = "{database_url}"\n')

    ran = gateway(f"{command} 99999999999999999999999")

    assert (ran.code, ran.out) == (1, "")
    assert ran.err == "expected values that the database can hold: a number or a time is too large\n"


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("command", ["jobs retry 1", f"series release {SERIES}", "db upgrade"])
def test_a_database_that_can_only_be_read_is_told_without_a_traceback(
    gateway, database_url: str, command: str, tmp_path: Path
) -> None:
    db = open_database(database_url)
    a_series(db)
    a_job(db, state="failed")
    with db.begin() as session:
        if command == "db upgrade":
            session.execute(text("UPDATE gw_schema_version SET version_num = '0017'"))
        session.execute(text(f"ALTER DATABASE {make_url(database_url).database} SET default_transaction_read_only = on"))
    db.kw["bind"].dispose()
    write(tmp_path, f'[database]\nurl = "{database_url}"\n')

    ran = gateway(command)

    assert (ran.code, ran.err) == (1, "the database failed (ReadOnlySqlTransaction): see to it, and try again\n")


@pytest.mark.parametrize("command", ["serve", "db upgrade"])
def test_serving_with_a_database_that_does_not_answer_is_told(command: str, tmp_path: Path) -> None:
    write(tmp_path, f'[database]\nurl = "postgresql://user:SECRET@/d?host={tmp_path}"\n')

    ran = _subprocess(command, tmp_path, but="cli._DATABASE_SECONDS = 1")

    assert ran.code == 1
    assert ran.err.endswith("database: PostgreSQL does not answer (OperationalError): check [database] url\n")
    assert "SECRET" not in ran.err


def _subprocess(command: str, folder: Path, *, but: str = "", **environment: str) -> Ran:
    """`but` is a statement: a patience of the product that is less for this process."""
    program = f"from gateway import cli\nfrom gateway.serving import doorman\n{but}\ncli.main()"
    how = ["-c", program] if but else ["-m", "gateway"]
    ended = subprocess.run(
        [sys.executable, *how, *command.split()], capture_output=True, text=True, timeout=60, cwd=folder, check=False,
        env=os.environ | {"COLUMNS": "80"} | environment,
    )  # fmt: skip
    return Ran(ended.returncode, ended.stdout, ended.stderr)


def test_nobody_but_who_runs_it_and_a_group_can_read_what_a_gateway_makes(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "gateway", "db", "upgrade"], cwd=tmp_path, umask=0o022, capture_output=True, check=False
    )

    assert ended.returncode == 0, ended.stderr
    made = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "var", tmp_path / "var" / "gateway.db")}
    assert made == {"var": 0o750, "gateway.db": 0o640}


def test_a_pipeline_is_ordered_to_a_peer_that_a_person_added_also_where_rules_name_it(gateway, tmp_path: Path, db) -> None:
    a_series(db)
    (tmp_path / "late").mkdir()
    assert gateway(f"peers add late folder path={tmp_path / 'late'}").code == 0
    (tmp_path / "rules.yaml").write_text(
        "rules: [{name: CT, when: {all: [{attribute: Modality, is: CT}]}, pipeline: ct_lung, send_to: [late]}]\n"
    )

    ran = gateway(f"jobs order {SERIES} ct_lung --to late")

    assert (ran.code, ran.out, ran.err) == (0, "job 1 is queued\n", "")


def test_who_retires_a_peer_is_told_how_much_waits_for_it_and_asked(gateway, monkeypatch: pytest.MonkeyPatch, db, queues) -> None:
    a_series(db)
    delivery = a_delivery(db, a_job(db, state="done"), queues, peer="gone")

    monkeypatch.setattr("sys.stdin", StringIO("n\n"))
    refused = gateway("peers retire gone --reason", "switched off")
    assert (refused.code, refused.out) == (1, "1 deliveries to gone will be given up. Go on? [y/N]: ")
    monkeypatch.setattr("sys.stdin", StringIO("y\n"))
    assert gateway("peers retire gone --reason", "switched off").out.endswith(
        "1 deliveries to gone are cancelled: switched off\n"
    )
    again = gateway("peers retire gone --yes --reason", "switched off")

    assert (again.code, again.err) == (1, "peer gone: no delivery waits for it\n")
    assert "cancelled by" in gateway(f"deliveries show {delivery}").out


def test_who_acts_is_who_runs_the_command_whatever_the_environment_says(tmp_path: Path) -> None:
    environment = dict.fromkeys(("LOGNAME", "USER", "LNAME", "USERNAME"), "boss")
    assert _subprocess("db upgrade", tmp_path).code == 0

    assert _subprocess("audit export", tmp_path, **environment).code == 0
    told = [json.loads(line) for line in _subprocess("audit export", tmp_path).out.splitlines()]

    assert {one["actor"] for one in told if one["act"] == "audit.exported"} == {pwd.getpwuid(os.getuid()).pw_name}


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("series list", "nothing has arrived yet"),
        ("jobs list", "no jobs"),
        ("deliveries list", "no deliveries"),
        ("audit list", "the trail is empty"),
    ],
)
def test_an_empty_gateway_says_so(gateway, db, command: str, said: str) -> None:
    assert gateway(command) == Ran(0, f"{said}\n", "")


@pytest.mark.parametrize(
    "command",
    ["series show", "jobs show", "jobs retry", "jobs cancel", "deliveries show", "deliveries retry", "deliveries cancel"],
)
def test_what_does_not_exist_is_told(gateway, db, command: str) -> None:
    what = {"series": "series", "jobs": "job", "deliveries": "delivery"}[command.split(maxsplit=1)[0]]

    assert gateway(f"{command} 4711") == Ran(1, "", f"there is no {what} 4711\n")


def test_a_state_that_does_not_exist_is_told(gateway, db) -> None:
    assert gateway("jobs list --state finished").err == "expected one of the states queued, running, done, failed, cancelled\n"


@pytest.mark.parametrize(
    "command",
    ["series list", f"series show {SERIES}", "jobs list", "jobs show 1", "deliveries list", "deliveries show 1", "audit list"],
)
def test_uids_can_be_copied_from_80_columns(gateway, db, command: str) -> None:
    a_series(db)
    a_delivery(db, a_job(db, state="failed", code="GEOMETRY", reason="expected slices that lie on one line, " * 4))

    ran = gateway(command)

    uids = {uid for uid in (STUDY, SERIES, OUTPUT) if any(uid in line for line in ran.out.splitlines())}
    assert ran.code == 0
    assert uids, ran.out
    assert re.sub(r"\s", "", ran.out).count(SERIES) == ran.out.count(SERIES)
    assert re.sub(r"\s", "", ran.out).count(OUTPUT) == ran.out.count(OUTPUT)


def test_a_series_is_told_with_why(gateway, db) -> None:
    a_series(db)
    a_job(db, state="failed", code="GEOMETRY", reason="expected [slices] on one line")

    lines = [line.strip() for line in gateway(f"series show {SERIES}").out.splitlines()]

    assert lines[:4] == [
        f"CT series {SERIES}",
        f"of study {STUDY}",
        "1 instances, 2.5 MB, revision 1: complete",
        "why: the association ended, 12 of 12",
    ]
    assert lines[4:8] == [
        "rule chest CT did not match",
        "line 4: all does not hold: 1 of 2 holds",
        "line 5: Modality is CT holds: it is",
        "line 6: fact slices at least 20 does not hold: there are [12]",
    ]
    assert lines[8:11] == [
        "job 1 bright: failed for chest CT",
        f"series {SERIES}, 1 instances",
        "GEOMETRY: expected [slices] on one line",
    ]


def test_lists_have_a_line_each_that_fits(gateway, db) -> None:
    a_series(db)
    a_delivery(db, a_job(db, state="done"), status=0xA700, reason="the peer cannot take it now")

    for command, line in (
        ("series list", r"2026-01-0\d \d\d:\d\d:\d\d  CT        1          complete"),
        ("jobs list", r"1    2026-01-0\d \d\d:\d\d:\d\d  bright    done   0"),
        ("deliveries list", r"1         1    pacs  queued  0         0xA700  2026-01-0\d \d\d:\d\d:\d\d"),
    ):
        lines = gateway(command).out.splitlines()
        assert re.fullmatch(line, lines[1]), lines
        assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("command", ["series list", f"series show {SERIES}", "jobs show 1", "deliveries show 1", "audit list"])
def test_no_list_or_story_names_the_patient(gateway, db, command: str) -> None:
    a_series(db)
    a_delivery(db, a_job(db))

    assert "CANARY" not in gateway(command).out


def test_jobs_are_cancelled_and_retried(gateway, db, queues) -> None:
    a_series(db)
    job = a_job(db, queues)

    assert gateway(f"jobs retry {job}") == Ran(0, f"job {job} was waiting and is due now\n", "")
    assert gateway(f"jobs cancel {job}") == Ran(0, f"job {job} is cancelled\n", "")
    assert gateway(f"jobs cancel {job}") == Ran(1, "", f"job {job} is cancelled: expected one that waits or failed\n")
    assert gateway(f"jobs retry {job}") == Ran(0, f"job {job} is queued again\n", "")
    assert f"cancelled by {getuser()}" not in gateway(f"jobs show {job}").out.splitlines()[0]
    assert [line.split()[3:5] for line in gateway("audit list").out.splitlines() if "job." in line] == [
        ["job.retried", getuser()], ["job.cancelled", getuser()], ["job.retried", getuser()],
    ]  # fmt: skip


def test_deliveries_are_cancelled_and_retried(gateway, tmp_path: Path, db, queues) -> None:
    (tmp_path / "pacs").mkdir()
    gateway(f"peers add pacs folder path={tmp_path / 'pacs'}")
    a_series(db)
    delivery = a_delivery(db, a_job(db, state="done"), queues)

    assert gateway(f"deliveries retry {delivery}").out == f"delivery {delivery} was waiting and is due now\n"
    assert gateway(f"deliveries cancel {delivery}").out == f"delivery {delivery} is cancelled\n"
    assert gateway(f"deliveries retry {delivery}").out == f"delivery {delivery} is queued again\n"
    assert gateway("deliveries list --state cancelled").out == "no deliveries\n"
    assert "delivery.cancelled" in gateway(f"deliveries show {delivery}").out


def test_peers_are_listed_without_their_secrets(gateway, tmp_path: Path) -> None:
    write(
        tmp_path,
        '[[peers]]\nname = "pacs"\nprotocol = "dimse"\nhost = "10.0.0.1"\nport = 104\nae_title = "ORTHANC"\n'
        '[[peers]]\nname = "web"\nprotocol = "dicomweb"\nurl = "https://pacs.example/dicom-web"\ntoken = "SECRET"\n'
        '[[peers]]\nname = "disk"\nprotocol = "folder"\npath = "/mnt/results"\n',
    )

    ran = gateway("peers list")

    assert [line.split() for line in ran.out.splitlines()] == [
        ["peer", "protocol", "address", "proof", "from", "state"],
        ["pacs", "dimse", "ORTHANC@10.0.0.1:104", "query", "gateway.toml", "in", "use"],
        ["web", "dicomweb", "https://pacs.example/dicom-web", "query", "gateway.toml", "in", "use"],
        ["disk", "folder", "/mnt/results", "read-back", "gateway.toml", "in", "use"],
    ]


def test_without_peers_that_is_told(gateway) -> None:
    assert gateway("peers list").out == "no peers: results stay in the store\n"
    assert gateway("peers echo pacs") == Ran(1, "", "there is no peer 'pacs'; known: none\n")


def test_a_peer_is_echoed(gateway, tmp_path: Path) -> None:
    with running_scp() as scp:
        write(
            tmp_path, f'[[peers]]\nname = "pacs"\nprotocol = "dimse"\nhost = "127.0.0.1"\nport = {scp.port}\nae_title = "SCP"\n'
        )

        assert re.fullmatch(r"pacs: answered C-ECHO in \d+ ms\n", gateway("peers echo pacs").out)

    assert gateway("peers echo pacs") == Ran(1, "", "no connection: connection refused\n")


def test_rules_are_checked_by_line(gateway, tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(
        "rules:\n  - name: chest\n    when:\n      all:\n        - {attribute: Modality, iz: CT}\n    pipeline: ct_lung\n    send_to: [pacs]\n"
    )

    ran = gateway("rules check")

    assert ran.code == 1
    assert "rules.yaml: line 5" in ran.err
    assert "rules.yaml: line 7" in ran.err


def test_without_rules_that_is_told(gateway) -> None:
    ran = gateway("rules check")

    assert (ran.code, ran.out) == (1, "rules.yaml: there is no such file: series are kept, none is worked on\n")


def test_files_are_sent_to_a_peer_and_those_that_are_no_dicom_are_named(gateway, tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    stored(tmp_path / "study", ct_series(3))
    (tmp_path / "study" / "README.txt").write_text("no DICOM")

    with running_scp(0x0000, 0xA700, 0x0000) as scp:
        write(
            tmp_path, f'[[peers]]\nname = "pacs"\nprotocol = "dimse"\nhost = "127.0.0.1"\nport = {scp.port}\nae_title = "SCP"\n'
        )
        ran = gateway("send study --to pacs")

    assert ran.code == 1
    assert ran.out.splitlines() == [
        "not sent: study/1.stored: the peer cannot take it now: Refused: Out of Resources (0xA700)",
        "no DICOM file (PS3.10), left out: study/README.txt",
        "2 of 3 arrived",
    ]


def test_nothing_to_send_is_told(gateway, tmp_path: Path) -> None:
    (tmp_path / "letter").write_text("no DICOM")
    (tmp_path / "empty").mkdir()
    with running_scp() as scp:
        write(tmp_path, f'[dimse]\nport = {scp.port}\nae_title = "SCP"\n')

        for path in ("letter", "empty"):
            assert gateway(f"send {path}") == Ran(1, "", f"{path}: expected DICOM files (PS3.10)\n")


def test_sending_to_a_gateway_that_does_not_run_is_one_sentence(gateway, tmp_path: Path) -> None:
    stored(tmp_path, ct_series(3))
    write(tmp_path, f"[dimse]\nport = {(port := free_port())}\n")

    ran = gateway("send .")

    assert ran == Ran(
        1,
        "",
        f"this gateway (AIGATEWAY at port {port}) does not answer: no connection: connection refused; start it with `gateway serve`\n",
    )


def test_sending_to_a_gateway_that_takes_others_says_how_to_be_one_of_them(gateway, tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    stored(tmp_path / "study", ct_series(3))
    settings = {"dimse": {"calling_ae_titles": ["CT1"]}}
    with World(tmp_path / "world", f"sqlite:///{tmp_path}/world.db", f"127.0.0.1:{free_port()}", settings=settings) as world:
        world.start()
        refused = world.run("send", str(tmp_path / "study"))
        taken = world.run("send", str(tmp_path / "study"), "--calling-ae-title", "CT1")

    assert refused.stderr == (
        "this gateway does not take GATEWAYSEND: the peer rejected the association: calling AE title not recognised;"
        " say with --calling-ae-title whom it takes (calling_ae_titles, [[callers]])\n"
    )
    assert (refused.returncode, taken.returncode) == (1, 0)


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("peers add", "[[peers]] of"), ("rules draft", "[rules] file"), ("models install-server", '[triton] url = "embedded"'),
        ("viewer install", "[web] viewer"),
    ],
)  # fmt: skip
def test_help_names_sections_with_their_brackets(gateway, command: str, shown: str) -> None:
    assert shown in " ".join(gateway(f"{command} --help").out.replace("│", " ").split())


def test_sending_to_a_peer_that_is_not_configured_is_told(gateway, tmp_path: Path) -> None:
    stored(tmp_path, ct_series(1))

    assert gateway("send . --to pacs") == Ran(1, "", "there is no peer 'pacs'; known: none\n")


def test_sending_to_a_peer_of_the_file_asks_no_database(gateway, tmp_path: Path) -> None:
    (tmp_path / "series").mkdir()
    (tmp_path / "pacs").mkdir()
    stored(tmp_path / "series", ct_series(2))
    nobody = f"postgresql://user@/d?host={tmp_path}"
    peer = f'[[peers]]\nname = "pacs"\nprotocol = "folder"\npath = "{tmp_path / "pacs"}"\n'
    write(tmp_path, f'[database]\nurl = "{nobody}"\n{peer}')

    ran = gateway("send series --to pacs")

    assert ran == Ran(0, "2 of 2 arrived\n", "")
    assert len(list((tmp_path / "pacs").rglob("*.dcm"))) == 2


def test_a_broken_configuration_is_told_as_a_whole_by_every_command(gateway, tmp_path: Path) -> None:
    write(tmp_path, "[dimse]\nport = -1\n[log]\nlevel = 'loud'\n")

    for command in (*ASKING, "peers list", "rules check", "models list", "serve", "send .", "db upgrade"):
        ran = gateway(command)
        assert (ran.code, ran.out, len(ran.err.splitlines())) == (1, "", 2), command


def test_a_port_that_is_taken_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        environment = {"GATEWAY_DIMSE__PORT": str(taken.getsockname()[1]), "GATEWAY_LOG__FORMAT": "json"}

        ran = _subprocess("serve", tmp_path, but="doorman._PORT_SECONDS = 1", **environment)

        where = f"127.0.0.1:{taken.getsockname()[1]}"
    told, last = ran.err.splitlines()
    assert (ran.code, last) == (1, f"[dimse] {where} cannot be listened on: address already in use")
    assert '"port.taken"' in told and '"seconds": 1' in told, "who waits is told what for, and for how long"


def test_a_data_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "var").write_text("a file")

    ran = _subprocess("serve", tmp_path)

    assert (ran.code, ran.err) == (1, "var: File exists\n")


def test_a_second_gateway_on_the_same_folder_refuses_to_serve(tmp_path: Path) -> None:
    with World(tmp_path / "world", f"sqlite:///{tmp_path}/gateway.db", f"127.0.0.1:{free_port()}") as world:
        world.start()

        ran = world.run("serve")

        assert ran.returncode == 1
        assert f"{world.folder / 'var'}: another gateway serves from this folder" in ran.stderr
        assert "Traceback" not in ran.stderr


def test_files_are_sent_to_the_running_gateway_and_told_of(tmp_path: Path, triton: str) -> None:
    (tmp_path / "study").mkdir()
    stored(tmp_path / "study", ct_series(4))
    (tmp_path / "study" / "DICOMDIR.txt").write_text("no DICOM")
    with World(tmp_path / "world", f"sqlite:///{tmp_path}/gateway.db", triton) as world:
        world.start()

        sent = world.run("send", str(tmp_path / "study"))
        assert (sent.returncode, sent.stderr) == (0, "")
        assert sent.stdout.splitlines() == [
            f"no DICOM file (PS3.10), left out: {tmp_path / 'study' / 'DICOMDIR.txt'}",
            "4 of 4 arrived",
        ]
        world.wait_settled()

        assert "job 1 bright: done" in world.run("series", "list").stdout
        assert world.run("jobs", "list", "--state", "done").stdout.count("bright") == 1
        assert world.run("deliveries", "list").stdout.count("0x0000") == 2
        assert "GATEWAYSEND" in world.run("audit", "list").stdout
        assert re.search(r"bright +ready +1", world.run("models", "list").stdout)
        assert world.run("check").returncode == 0
        assert world.process is not None
        world.process.send_signal(signal.SIGINT)
        assert world.process.wait(60) == 0


def test_models_of_a_triton_that_is_not_there_are_told(gateway, tmp_path: Path) -> None:
    write(tmp_path, f'[triton]\nurl = "127.0.0.1:{free_port()}"\ntimeout_seconds = 2\n')

    ran = gateway("models list")

    assert (ran.code, ran.out, len(ran.err.splitlines())) == (1, "", 1)
    assert "Triton" in ran.err


def test_the_models_server_is_installed_where_serve_looks_for_it(tmp_path: Path) -> None:
    write(tmp_path, f'[triton]\nenvironment = "{tmp_path / "triton"}"\n')

    ran = _subprocess("models install-server", tmp_path, PIP_NO_INDEX="1", PIP_FIND_LINKS=str(tmp_path))

    assert ran.code == 1
    assert ran.err == f"NVIDIA Triton: pip could not install nvidia-pytriton==0.7.0 into {tmp_path / 'triton'}\n"
    assert (tmp_path / "triton" / "bin" / "python").exists()


def test_people_and_tokens_are_managed_at_the_command_line(gateway, db, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("correct horse battery staple\n")

    assert "nobody may use the console yet" in gateway("users list").out
    added = gateway("users add a.miller --role operator --password-file password")
    assert added == Ran(0, "a.miller may sign in as operator\n", "")
    made = gateway("tokens make a.miller --label reports")
    assert len(made.out.strip()) == 43
    assert "reports" in gateway("tokens list").out
    assert gateway("tokens revoke 1").out == "token 1 is revoked\n"
    assert gateway("users add root --role administrator --password-file password").code == 0
    assert gateway("users role a.miller viewer").out == "a.miller is viewer now\n"
    assert gateway("users disable a.miller").out == "a.miller may not sign in any more\n"
    assert gateway("users disable root").err == "expected that one administrator is left: make somebody else one first\n"
    assert "disabled" in gateway("users list").out
    assert gateway("users role nobody viewer").err == "there is nobody of that name\n"
