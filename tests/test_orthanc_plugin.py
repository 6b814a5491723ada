"""The plugin in a real Orthanc: it pokes, shows and orders, and whatever the gateway does, Orthanc goes on."""

import json
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import pytest

from gateway.rows.tables import JobState
from tests.console_fixture import shot
from tests.orthanc_fixture import SCRIPT, a_token, orthanc_with_plugin, stored_in, wait_watching, world_beside
from tests.peers_fixture import closes, running_http, running_tcp, silent
from tests.ports import free_port
from tests.synthetic import ct_series
from tests.world import RULES, send

INSTALL = SCRIPT.with_name("install")


def ask(orthanc, path, body=None):
    """Status and JSON of a route of the plugin."""
    request = urllib.request.Request(f"{orthanc.url}/{path}", data=None if body is None else json.dumps(body).encode())
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read() or b"null")


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def talks_rubbish(peer):
    peer.recv(65536)
    peer.sendall(b"\x00\xff rubbish\r\n" * 100)


def answers_500(peer):
    peer.recv(65536)
    peer.sendall(b"HTTP/1.1 500 no\r\nContent-Length: 6\r\nConnection: close\r\n\r\n<html>")


def answers_no_json(peer):
    peer.recv(65536)
    peer.sendall(b"HTTP/1.1 200 ok\r\nContent-Length: 6\r\nConnection: close\r\n\r\n<html>")


@pytest.mark.parametrize("talk", [None, silent, closes, talks_rubbish, answers_500, answers_no_json])
def test_orthanc_goes_on_whatever_the_gateway_does(tmp_path, talk):
    with running_tcp(talk or closes) as port:
        url = f"http://127.0.0.1:{port if talk else free_port()}"
        with orthanc_with_plugin(tmp_path, url=url, section={"Filter": True}, StableAge=1) as orthanc:
            stored_in(orthanc, ct_series(4, 32, 32))
            wait_for(lambda: ask(orthanc, "ai/status")[1]["failures"] > 0)

            status, said = ask(orthanc, "ai/pipelines")
            assert status >= 500
            assert said["reason"]
            assert ask(orthanc, "ai/status")[1]["door"] is True
            stored_in(orthanc, ct_series(4, 32, 32, seed=1))
            assert len(json.loads(orthanc.get("/instances"))) == 8
            assert ask(orthanc, "ai/send", {"series": "0-0", "pipeline": "x"})[0] == 404
            assert ask(orthanc, "ai/send", {"series": "../x"})[0] == 400


def test_senders_come_again_while_the_gateway_takes_nothing(tmp_path):
    series, fails = ct_series(2, 32, 32), threading.Event()

    class Answer(list):
        def __iter__(self):
            return iter((500, {}, b"") if fails.is_set() else (200, {}, b'{"open": false, "reason": "full"}'))

    with running_http(*[Answer()] * 200) as (url, requests):
        with orthanc_with_plugin(tmp_path, url=url, section={"Filter": True}) as orthanc:
            wait_for(lambda: ask(orthanc, "ai/status")[1]["door"] is False)

            assert send(series, orthanc.dicom_port, calling="AIGATEWAY", called="ORTHANC") == [0xA700] * 2
            assert {headers["Authorization"] for headers, _ in requests} == {"Bearer token"}
            fails.set()
            wait_for(lambda: ask(orthanc, "ai/status")[1]["door"] is True)  # a gateway that fails keeps nobody out
            stored_in(orthanc, series)


def by_the_button(chromium, orthanc, resource, pipeline):
    """What Orthanc Explorer tells a person who sends the series to AI there."""
    page = chromium.new_page()
    told = []
    page.on("dialog", lambda dialog: (told.append(dialog.message), dialog.accept()))
    page.goto(f"{orthanc.url}/app/explorer.html#series?uuid={resource}")
    page.locator("#ai-gateway").click()
    page.get_by_role("link", name=pipeline, exact=True).wait_for()
    shot(page, "orthanc-send-to-ai")
    page.get_by_role("link", name=pipeline, exact=True).click()
    wait_for(lambda: page.evaluate("0") == 0 and told)
    page.close()
    return told


def test_a_series_is_sent_to_ai_from_orthanc_and_its_state_is_there(tmp_path, triton, chromium):
    series, rules = ct_series(4), RULES.replace("is: CT", "is: MR")
    port, token = free_port(), a_token(tmp_path / "world")
    section = {"Timeout": 20}
    with orthanc_with_plugin(tmp_path, url=f"http://127.0.0.1:{port}", token=token, section=section, StableAge=1) as orthanc:
        with world_beside(orthanc, tmp_path, triton, settings={"web": {"port": port}}, rules=rules, modalities=["MR"]) as world:
            world.start()
            wait_watching(world)
            stored_in(orthanc, series)
            (resource,) = json.loads(orthanc.get("/series"))
            world.wait_until(lambda: ask(orthanc, "ai/pipelines")[0] == 200)
            assert "bright" in ask(orthanc, "ai/pipelines")[1]
            assert ask(orthanc, "ai/send", {"series": resource, "pipeline": "no such"})[0] == 422

            assert by_the_button(chromium, orthanc, resource, "bright") == ["bright is ordered"]
            world.wait_until(lambda: [job.state for job in world.jobs()] == [JobState.DONE])

            world.wait_until(lambda: ask(orthanc, f"ai/series/{resource}")[1] == {"said": "delivered"})
            world.wait_until(lambda: "7402" in json.loads(orthanc.get(f"/series/{resource}/metadata")))
            world.wait_until(lambda: orthanc.get(f"/series/{resource}/metadata/7402") == b"delivered")
            world.wait_until(lambda: ask(orthanc, "ai/status")[1]["answered"] != "never")


def install(folder, *more):
    command = [sys.executable, str(INSTALL), "--url", "http://gateway:8080", "--token", "secret", "--folder", str(folder), *more]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_installer_needs_one_step_and_done_again_changes_nothing(tmp_path):
    (tmp_path / "orthanc.json").write_text('{ "Name": "there" /* "PythonScript": "none" */ }')
    (tmp_path / "python.json").write_text('{ // Debian\'s\n "PythonScript" : "/etc/orthanc/sample.py" }')
    before = sorted(path.name for path in tmp_path.iterdir())

    dry = install(tmp_path, "--dry-run")
    assert (dry.returncode, dry.stdout.count("would be done")) == (0, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert install(tmp_path).returncode == 0
    again = install(tmp_path)

    assert again.stdout.count("is as it should be") == 2
    assert (tmp_path / "ai-gateway.py").read_text() == SCRIPT.read_text()
    written = json.loads((tmp_path / "ai-gateway.json").read_text())
    assert written["PythonScript"] == str(tmp_path / "ai-gateway.py")
    assert written["AiGateway"]["Token"] == "secret"
    assert (tmp_path / "ai-gateway.json").stat().st_mode & 0o007 == 0
    assert (tmp_path / "python.json.aside").exists()


def test_the_installer_puts_no_script_of_others_aside(tmp_path):
    (tmp_path / "ours.json").write_text('{"PythonScript": "/srv/ours.py"}')

    found = install(tmp_path)

    assert found.returncode == 1
    assert "names a Python script already" in found.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["ours.json"]


def test_what_was_installed_runs_in_orthanc(tmp_path):
    folder = tmp_path / "configuration"
    folder.mkdir()
    assert install(folder).returncode == 0
    written = json.loads((folder / "ai-gateway.json").read_text())

    with orthanc_with_plugin(tmp_path, url="", section=written["AiGateway"]) as orthanc:
        assert ask(orthanc, "ai/status")[1]["gateway"] == "http://gateway:8080"


def test_the_plugin_imports_nothing_but_the_standard_library_and_orthanc():
    names = {line.split()[1].split(".")[0] for line in SCRIPT.read_text().splitlines() if line.startswith(("import ", "from "))}

    assert names <= set(sys.stdlib_module_names) | {"orthanc"}
    assert "GPL-3.0-or-later" in SCRIPT.read_text().splitlines()[0]
