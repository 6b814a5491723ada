"""What deploy/ names exists: variables, commands, ports, paths; and a wheel of this tree serves from an environment of its own."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

from gateway.configuration import config
from gateway.configuration.sections import Config
from gateway.decisions.rules import load as load_rules
from gateway.inference import tritonserver
from gateway.peers import load_protocols, make_peer
from gateway.pipeline import load_pipelines
from gateway.web.found import parts
from tests.ports import free_port
from tests.test_architecture import commands
from tests.world import World

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))
DOCKERFILES = sorted(DEPLOY.glob("Dockerfile*[!e]"))
UNIT = (DEPLOY / "systemd" / "gateway.service").read_text("utf-8")
OURS = {"clinical-ai-gateway"}


def instructions(path: Path) -> list[tuple[str, str]]:
    lines = re.sub(r"\\\n\s*", "", path.read_text("utf-8")).splitlines()
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines) if word.isupper()]


def of(path: Path, word: str) -> list[str]:
    return [rest for one, rest in instructions(path) if one == word]


def variables() -> Iterator[tuple[str, str]]:
    """Each GATEWAY_ variable that a file of deploy/ sets, and its value."""
    for path in DOCKERFILES:
        yield from (tuple(one.split("=", 1)) for line in of(path, "ENV") for one in shlex.split(line))
    for service in COMPOSE["services"].values():
        yield from service.get("environment", {}).items()
    yield from (tuple(one.split("=", 1)) for one in re.findall(r"^Environment=(.+)$", UNIT, re.MULTILINE))


def test_every_variable_is_a_key_of_the_configuration_with_a_value_that_it_takes() -> None:
    found = {
        name: re.sub(r"\$\{\w+:[-?]([^}]*)\}", r"\1", value).replace("write it into .env", "x") for name, value in variables()
    }
    set_ = {name: value for name, value in found.items() if name.startswith("GATEWAY_") and name != "GATEWAY_CONFIG"}

    loaded = config.load(None, set_)

    assert {"GATEWAY_GATEWAY__DATA_DIR", "GATEWAY_DATABASE__URL", "GATEWAY_TRITON__URL", "GATEWAY_WEB__URL"} <= set(set_)
    assert loaded.gateway.data_dir == Path("/var/lib/gateway")
    assert loaded.database_url == "postgresql+psycopg://gateway:x@postgres/gateway"
    assert loaded.web.behind_proxy


def test_the_image_runs_as_nobody_special_and_its_command_and_health_exist() -> None:
    path = DEPLOY / "Dockerfile"
    (user,), (port,) = of(path, "USER"), [str(Config().web.port)]
    entry, command = json.loads(of(path, "ENTRYPOINT")[-1]), json.loads(of(path, "CMD")[-1])
    health = re.search(r"http://127\.0\.0\.1:(\d+)(/\w+)", of(path, "HEALTHCHECK")[0])

    (made,) = [line for line in of(path, "RUN") if "useradd" in line]
    number, group = re.search(r"--uid (\d+) --gid (\d+)", made).groups()

    assert user == f"{number}:{group}" and number != "0" and f"groupadd --gid {group}" in made
    assert "HOME_MODE=0700" in made, "`gateway check` calls a data folder wrong that everybody may look into"
    assert entry == ["gateway"] and command[0] in commands()
    assert health and health[1] == port
    assert any(health[2] == route.path for page in parts("pages") for route in page.router.routes)
    assert of(path, "EXPOSE") == [f"{Config().dimse.port} {port}"]
    assert "GATEWAY_CONFIG" in dict(variables())


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_what_an_image_copies_is_here_and_let_through(path: Path) -> None:
    sources = [one for line in of(path, "COPY") if "--from" not in line for one in line.split()[:-1]]
    ignored = Path(f"{path}.dockerignore").read_text("utf-8").splitlines()

    assert sources
    assert all((ROOT / source).exists() for source in sources)
    assert ignored[0 if ignored[0] == "*" else 1] == "*"
    assert set(sources) <= {line.removeprefix("!") for line in ignored}
    assert of(path, "USER")[-1].split(":")[0] not in ("0", "root")


def test_the_python_of_the_image_is_one_that_the_gateway_runs_on() -> None:
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    found = {re.fullmatch(r"python:3\.(\d+)-slim-bookworm(?: AS \w+)?", image)[1] for image in of(DEPLOY / "Dockerfile", "FROM")}

    assert len(found) == 1
    assert int(found.pop()) >= int(known.removeprefix(">=3."))


def test_the_models_of_the_image_have_what_an_embedded_triton_has() -> None:
    (run,) = of(DEPLOY / "Dockerfile.triton", "RUN")
    wanted = {one for step in tritonserver._PIP_STEPS for one in step if one.startswith(("numpy", "torch"))}

    assert wanted <= set(shlex.split(run))
    assert {option.split("=")[0] for option in json.loads(of(DEPLOY / "Dockerfile.triton", "CMD")[0])[1:]} == {
        "--model-repository", "--exit-on-error", "--strict-readiness",
    }  # fmt: skip


def test_images_are_pinned_volumes_declared_and_only_what_must_be_is_reachable() -> None:
    services: dict[str, dict[str, Any]] = COMPOSE["services"]
    for name, service in services.items():
        image = service.get("image")
        assert bool(image) != ("build" in service), name
        assert not image or re.fullmatch(r"[\w./-]+:\d[\w.-]*", image), name
        if "build" in service:
            assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert (DEPLOY / source).exists() if source.startswith(".") else source in COMPOSE["volumes"], volume
        for port in service.get("ports", ()):
            assert re.fullmatch(r"\$\{\w+_ADDRESS:-127\.0\.0\.1\}:\d+:\d+", port), port
    assert [name for name, service in services.items() if "ports" in service] == ["gateway", "orthanc"]
    assert "ports" not in services["postgres"]
    assert {profile for service in services.values() for profile in service.get("profiles", ())} == {"cpu", "gpu"}
    assert services["triton-gpu"]["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]


def test_services_find_each_other_where_they_listen() -> None:
    services, values = COMPOSE["services"], dict(variables())
    host, _, port = values["GATEWAY_TRITON__URL"].partition(":")

    assert all(host in services[f"triton-{kind}"]["networks"]["inside"]["aliases"] for kind in ("cpu", "gpu"))
    assert port in of(DEPLOY / "Dockerfile.triton", "EXPOSE")[0].split()
    assert "@postgres/" in values["GATEWAY_DATABASE__URL"] and "postgres" in services
    assert services["postgres"]["environment"]["POSTGRES_USER"] in values["GATEWAY_DATABASE__URL"]
    assert services["web"]["network_mode"] == "service:gateway"
    caddy = (DEPLOY / "compose/Caddyfile").read_text("utf-8")
    assert set(re.findall(r"reverse_proxy (\S+)", caddy)) == {f"127.0.0.1:{Config().web.port}"}
    assert f":{Config().dimse.port}:{Config().dimse.port}" in services["gateway"]["ports"][0]
    ours = json.loads(services["orthanc"]["environment"]["ORTHANC__DICOM_MODALITIES"])["gateway"]
    assert (ours["AET"], ours["Host"], ours["Port"]) == (Config().dimse.ae_title, "gateway", Config().dimse.port)


def test_orthanc_has_the_plugin_and_the_plugin_finds_the_gateway() -> None:
    orthanc, caddy = COMPOSE["services"]["orthanc"], (DEPLOY / "compose/Caddyfile").read_text("utf-8")
    plugin = (DEPLOY / "orthanc/plugin.py").read_text("utf-8")
    asked = json.loads(re.sub(r"\$\{\w+:-\}", "", orthanc["environment"]["ORTHANC__AI_GATEWAY"]))
    waiting = re.sub("^# ", "", (DEPLOY / "compose/gateway.toml").read_text("utf-8").partition(".env.\n")[2], flags=re.MULTILINE)
    (peer,) = tomllib.loads(waiting)["peers"]

    assert f"./orthanc/plugin.py:{orthanc['environment']['ORTHANC__PYTHON_SCRIPT']}:ro" in orthanc["volumes"]
    assert set(asked) <= set(re.findall(r'"(\w+)": ', plugin))
    assert f"{asked['Url']} {{" in caddy
    assert asked["Peer"] == peer["name"]
    make_peer(peer, protocols=load_protocols())


def test_what_compose_asks_for_is_in_the_example_of_its_environment() -> None:
    asked = set(re.findall(r"\$\{(\w+)", (DEPLOY / "compose.yaml").read_text("utf-8")))
    example = dict(re.findall(r"^(\w+)=(.*)$", (DEPLOY / "compose/environment.example").read_text("utf-8"), re.MULTILINE))

    assert asked == set(example)
    assert not [name for name in example if name.endswith(("PASSWORD", "TOKEN")) and example[name]]


def test_the_configuration_of_the_containers_is_a_good_one() -> None:
    loaded = config.load(DEPLOY / "compose/gateway.toml", {})
    (peer,) = loaded.peers
    mounted = {volume.split(":")[1]: volume.split(":")[0] for volume in COMPOSE["services"]["gateway"]["volumes"]}

    make_peer(peer | {"calling_ae_title": loaded.dimse.ae_title}, protocols=load_protocols())
    assert peer["host"] in COMPOSE["services"]
    assert peer["ae_title"] == COMPOSE["services"]["orthanc"]["environment"]["ORTHANC__DICOM_AET"]
    assert mounted[dict(variables())["GATEWAY_CONFIG"]] == "./compose/gateway.toml"
    assert mounted[str(loaded.rules.file)] == "./compose/rules.yaml"
    assert load_rules(
        (DEPLOY / "compose/rules.yaml").read_text(), pipelines=tuple(load_pipelines((ROOT / "pipelines",))), peers=("pacs",)
    )


def test_systemd_takes_the_unit_and_finds_it_well_confined(tmp_path: Path) -> None:
    run = re.search(r"^ExecStart=(\S+) (\w+)$", UNIT, re.MULTILINE)
    assert run and run[1].endswith("/bin/gateway") and run[2] in commands()
    unit = tmp_path / "gateway.service"
    unit.write_text(
        UNIT.replace(run[1], "/bin/true").replace("User=gateway", "User=daemon").replace("Group=gateway", "Group=daemon")
    )
    try:
        verified = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, check=False)
        judged = subprocess.run(
            ["systemd-analyze", "security", "--offline=true", "--threshold=25", unit], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        pytest.skip("systemd is not installed")

    assert "gateway.service" not in verified.stderr, verified.stderr
    assert judged.returncode == 0, judged.stdout[-400:]


def test_commands_of_root_see_what_the_service_sees(tmp_path: Path) -> None:
    of_unit = dict(
        line.removeprefix("Environment=").split("=", 1) for line in UNIT.splitlines() if line.startswith("Environment=")
    )
    password = "pa$s'w\"rd;&#\\"
    (tmp_path / "environment").write_text(f"# secrets\n\nGATEWAY_DATABASE__URL=postgresql://gateway:{password}@db/gateway\n")
    asks = "import json,os,sys;print(json.dumps([os.getcwd(), sys.argv[1:], dict(os.environ)]))"
    script = (DEPLOY / "systemd" / "gateway").read_text("utf-8")
    for ours, here in (
        ("/etc/gateway/environment", tmp_path / "environment"), ("cd /var/lib/gateway", f"cd {tmp_path}"),
        ("setpriv --reuid=gateway --regid=gateway --init-groups -- /opt/gateway/bin/gateway", f"{sys.executable} -c '{asks}'"),
    ):  # fmt: skip
        assert ours in script
        script = script.replace(ours, str(here))
    (tmp_path / "gateway").write_text(script)

    ran = subprocess.run(["sh", tmp_path / "gateway", "jobs", "show", "a b"], capture_output=True, text=True, check=True)

    place, arguments, environment = json.loads(ran.stdout)
    assert (place, arguments) == (str(tmp_path), ["jobs", "show", "a b"])
    assert environment["GATEWAY_DATABASE__URL"] == f"postgresql://gateway:{password}@db/gateway"
    for name in ("GATEWAY_CONFIG", "GATEWAY_GATEWAY__DATA_DIR"):
        assert environment[name] == of_unit[name]
    assert re.search(r"^User=gateway$", UNIT, re.MULTILINE)


def test_a_wheel_holds_everything_and_serves_from_an_environment_of_its_own(tmp_path: Path) -> None:
    built = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path / "dist", ROOT],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if built.returncode:
        pytest.skip(f"no wheel can be built here: {built.stderr.strip().splitlines()[-1]}")
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
    tracked = subprocess.run(
        ["git", "ls-files", "gateway", "pipelines", "triton_models"], cwd=ROOT, capture_output=True, text=True
    )
    assert set(tracked.stdout.split()) <= inside
    assert not [name for name in inside if name.startswith(("tests/", "deploy/")) or "__pycache__" in name]

    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env/bin/python"
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel], check=True
    )
    (packages,) = (tmp_path / "env/lib").glob("python3*/site-packages")
    (packages / "borrowed.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    world, web = (
        World(tmp_path / "world", f"sqlite:///{tmp_path}/gateway.db", "127.0.0.1:1", settings={"web": {"port": free_port()}}),
        0,
    )
    web = tomllib.loads(world.config.read_text())["web"]["port"]
    _serves(tmp_path, python, world, web)


def _serves(folder: Path, python: Path, world: World, web: int) -> None:
    """From a folder where no source is."""
    where = subprocess.run([python, "-c", "import gateway; print(gateway.__file__)"], cwd=folder, capture_output=True, text=True)
    assert Path(where.stdout.strip()).is_relative_to(folder / "env")
    program = [python.with_name("gateway"), "--version"]
    assert subprocess.run(program, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()
    with (folder / "log").open("wb") as log:
        served = subprocess.Popen(
            [python.with_name("gateway"), "serve", "--config", world.config],
            cwd=folder,
            stdout=log,
            stderr=log,
            env=dict(os.environ),
        )
        try:
            end = time.monotonic() + 120
            while not (world.listens() and _answers(web)):
                assert served.poll() is None and time.monotonic() < end, (folder / "log").read_text()[-3000:]
                time.sleep(0.2)
            assert "not cleared for diagnosis" in httpx2.get(f"http://127.0.0.1:{web}/", follow_redirects=True).text
        finally:
            served.send_signal(signal.SIGTERM)
            assert served.wait(60) == 0


def _answers(port: int) -> bool:
    try:
        return httpx2.get(f"http://127.0.0.1:{port}/healthz").status_code == 200
    except httpx2.HTTPError:
        return False
