"""`gateway check` asks those who are told of things, and tells them nothing."""

from pathlib import Path

import pytest

from gateway.commands.check import check_all
from tests.certificates import Authority
from tests.collector_fixture import TlsCollector, server_context, udp_collector
from tests.notices_fixture import Hook, Mailbox, mail_server, web_server
from tests.oidc_fixture import a_provider
from tests.otlp_fixture import otlp_collector
from tests.ports import free_port

NAMED = ("[audit]", "[tracing]", "[web.oidc]", "notice ")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret").write_text("a secret")
    return tmp_path


def asked(text: str) -> dict[str, bool]:
    """What `check` says of those who are told of things, and whether it is good."""
    Path("gateway.toml").write_text(text)
    return {one.text: one.good for one in check_all(Path("gateway.toml")) if one.text.startswith(NAMED)}


def everybody(*, syslog: str, traces: str, issuer: str, mail: int, hook: str, ca: Path) -> str:
    return f"""\
[audit]
syslog = "{syslog}"
authorities = "{ca}"
[tracing]
url = "{traces}"
[web.oidc]
issuer = "{issuer}"
client_id = "gateway"
client_secret_file = "secret"
viewers = ["staff"]
[[notices]]
name = "mail"
protocol = "email"
host = "127.0.0.1"
port = {mail}
security = "none"
from_address = "gateway@example.org"
to = ["pacs@example.org"]
[[notices]]
name = "chat"
protocol = "webhook"
url = "{hook}"
"""


def test_whoever_is_told_of_things_is_asked_and_told_nothing(place: Path, authority: Authority) -> None:
    box, hook = Mailbox(), Hook()
    with (
        TlsCollector(server_context(authority.issue("collector", hosts=("localhost",)))) as collector,
        otlp_collector() as (traces, spans),
        a_provider({}) as provider,
        mail_server(box) as mail,
        web_server(hook) as web,
    ):
        found = asked(
            everybody(
                syslog=collector.url, traces=traces, issuer=provider.issuer, mail=mail, hook=web, ca=authority.certificate
            )
        )  # fmt: skip
        assert found == {
            f"[audit] syslog {collector.url}: takes messages": True,
            f"[tracing] url {traces}: somebody listens there": True,
            f"[web.oidc] issuer {provider.issuer}: says who it is": True,
            "notice mail: the mail server lets us in": True,
            "notice chat: the webhook's server answers": True,
        }
    assert (collector.frames, spans, box.mails, hook.requests) == ([], [], [], [])


def test_who_is_not_there_is_wrong_in_words(place: Path, authority: Authority) -> None:
    port = free_port()
    nobody = f"127.0.0.1:{port}"

    found = asked(
        everybody(
            syslog=f"tls://{nobody}", traces=f"http://{nobody}/v1/traces", issuer=f"http://{nobody}", mail=port,
            hook=f"http://{nobody}/secret-path", ca=authority.certificate,
        )
    )  # fmt: skip

    assert found == {
        f"[audit] syslog tls://{nobody}: expected a collector that takes messages (Connection refused)": False,
        f"[tracing] url http://{nobody}/v1/traces: cannot be reached (Connection refused)": False,
        f"[web.oidc] issuer http://{nobody}: cannot be reached (ConnectError)": False,
        "notice mail: the mail server cannot be used (ConnectionRefusedError)": False,
        "notice chat: the webhook cannot be used (ConnectionRefusedError)": False,
    }


def test_who_is_somebody_else_is_wrong(place: Path, authority: Authority) -> None:
    stranger = Authority(place / "stranger")
    with (
        TlsCollector(server_context(stranger.issue("collector", hosts=("localhost",)))) as collector,
        a_provider({}) as provider,
        mail_server(Mailbox(), login=("gateway", "right")) as mail,
    ):
        there, provider.issuer = provider.issuer, "https://elsewhere.example"
        text = everybody(syslog=collector.url, traces="", issuer=there, mail=mail, hook=there, ca=authority.certificate)
        found = asked(text.replace('security = "none"', 'security = "none"\nuser = "gateway"\npassword_file = "secret"'))

    wrong = [text for text, good in found.items() if not good]
    assert [text.split(":")[0] for text in wrong] == ["[audit] syslog tls", "[web.oidc] issuer http", "notice mail"]
    assert "expected the metadata of the configured issuer" in wrong[1]
    assert "a secret" not in str(found)


def test_over_udp_nobody_can_be_asked_and_that_is_said(place: Path) -> None:
    with udp_collector() as (port, frames):
        url = f"udp://127.0.0.1:{port}"
        assert asked(f'[audit]\nsyslog = "{url}"\n') == {
            f"[audit] syslog {url}: is a name that is known; over UDP nobody answers": True
        }
    assert frames == []
