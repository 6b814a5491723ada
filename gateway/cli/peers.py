"""Commands about the systems that results go to."""

import tomllib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.terms import ConfigOption, at_workdesk, configured, fail, group, out, screen
from gateway.errors import DeliveryError

if TYPE_CHECKING:
    from gateway.acts.peering import PeerLine
    from gateway.commands.screen import Row
    from gateway.configuration.sections import Config
    from gateway.peers import Peer
    from gateway.roster import Entry
    from gateway.rows.contacts import Probe

peers = group("The systems that results go to.")

KeysArgument = Annotated[list[str], typer.Argument(help="KEY=VALUE, as in \\[\\[peers]] of gateway.toml; text needs no quotes.")]
AskOption = Annotated[list[str] | None, typer.Option(help="A key whose value is asked for and not shown: password, token.")]
_PROOF = "proof"


def named(settings: "Config", name: str) -> "Peer":
    """One of gateway.toml, without the database, which takes longer to load than most things to send; or one that was added."""
    from gateway.peers import peer_of_file

    peer = peer_of_file(settings, name)
    if peer is None:
        from gateway.roster import added_peer

        peer = added_peer(settings, name)
    return peer


@peers.command("list")
def peers_list(config: ConfigOption = None) -> None:
    """The peers of gateway.toml, then those that were added."""
    from gateway.roster import known

    columns = ("peer", "protocol", "address", _PROOF, "from", "state")
    screen().rows(columns, map(_row, known(configured(config)).entries), empty="no peers: results stay in the store")


@peers.command("show")
def peers_show(name: str, config: ConfigOption = None) -> None:
    """One peer: its keys but for secrets, what waits for it, what went wrong last, what it took when it was probed."""
    from gateway.acts.peering import show_peer

    at_workdesk(config, lambda desk: _tell(desk.ask_peers(lambda db, roster: show_peer(db, roster, name))))


@peers.command("add")
def peers_add(name: str, protocol: str, keys: KeysArgument, ask: AskOption = None, config: ConfigOption = None) -> None:
    """Add a peer; what serves works with it a second later. Those of gateway.toml are changed there."""
    from gateway.acts.peering import add_peer

    table = {"name": name, "protocol": protocol, **_read(keys, ask or ())}
    at_workdesk(config, lambda desk: desk.change_peers(lambda db, roster, **who: add_peer(db, roster, table, **who)))


@peers.command("change")
def peers_change(name: str, keys: KeysArgument, ask: AskOption = None, config: ConfigOption = None) -> None:
    """Change keys of a peer that was added; KEY= takes one away."""
    from gateway.acts.peering import change_peer

    changes = _read(keys, ask or ())
    at_workdesk(config, lambda desk: desk.change_peers(lambda db, roster, **who: change_peer(db, roster, name, changes, **who)))


@peers.command("disable")
def peers_disable(name: str, config: ConfigOption = None) -> None:
    """Let nothing go to a peer that was added; what is to go waits."""
    _disable(name, config, disabled=True)


@peers.command("enable")
def peers_enable(name: str, config: ConfigOption = None) -> None:
    """Let everything go on to a peer that was disabled."""
    _disable(name, config, disabled=False)


@peers.command("remove")
def peers_remove(name: str, config: ConfigOption = None) -> None:
    """Remove a peer that was added, where no rule names it and nothing is on its way to it."""
    from gateway.acts.peering import remove_peer
    from gateway.acts.rulebook import sent_to
    from gateway.serving.plan import plan

    pipelines = tuple(plan(configured(config), with_rules=False).pipelines)

    def remove(db: Any, roster: Any, **who: Any) -> str:
        return remove_peer(db, roster, name, ruled=sent_to(db, pipelines=pipelines, peers=roster.names), **who)

    at_workdesk(config, lambda desk: desk.change_peers(remove))


@peers.command("retire")
def peers_retire(
    name: str,
    reason: Annotated[str, typer.Option(help="Why; it stands with every delivery, and in the trail.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask; how many they are is told all the same.")] = False,
    config: ConfigOption = None,
) -> None:
    """Give up everything that waits for a peer that is gone for good, or failed there; says how much that is, and asks."""

    def confirm(text: str) -> None:
        if not yes:
            typer.confirm(text, abort=True)

    at_workdesk(config, lambda desk: desk.peers_retire(name, reason, confirm))


@peers.command("echo")
def peers_echo(name: str, config: ConfigOption = None) -> None:
    """Ask a peer whether it is there."""
    out.print(f"{name}: {named(configured(config), name).echo()}", highlight=False)


@peers.command("probe")
def peers_probe(name: str, config: ConfigOption = None) -> None:
    """Ask a peer what it takes: services, SOP classes and transfer syntaxes. Nothing is sent to it."""
    from gateway.acts.peering import probe_peer

    def probe(db: Any, roster: Any, **who: Any) -> str:
        found = probe_peer(db, roster, name, **who)
        _capabilities(found)
        if found.reason:
            raise DeliveryError(found.reason)
        return f"{name}: {sum(one[1] is True for one in found.found)} of {len(found.found)} are accepted"

    at_workdesk(config, lambda desk: desk.change_peers(probe))


def _disable(name: str, config: Any, *, disabled: bool) -> None:
    from gateway.acts.peering import disable_peer

    at_workdesk(
        config, lambda desk: desk.change_peers(lambda db, roster, **who: disable_peer(db, roster, name, disabled=disabled, **who))
    )


def _read(keys: Iterable[str], asked: Iterable[str]) -> dict[str, Any]:
    """Values as in TOML; what is none is text. An empty one is None."""
    found: dict[str, Any] = {key: typer.prompt(key, hide_input=True) for key in asked}
    for word in keys:
        key, is_pair, text = word.partition("=")
        if not key or not is_pair:
            fail([f"{key}: expected KEY=VALUE"])
        found[key] = _value(text)
    return found


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"] if text else None
    except tomllib.TOMLDecodeError:
        return text


def _row(entry: "Entry") -> "Row":
    cells = (entry.name, entry.protocol, entry.address, entry.peer.proof if entry.peer else "", entry.place, entry.state)
    return cells, entry.problems


def _tell(line: "PeerLine") -> None:
    from gateway.commands.screen import at

    entry = line.entry
    _print(f"{entry.name}: {entry.protocol}, from {entry.place}, {entry.state}")
    _each("{0} = {1}", entry.shown.items())
    if entry.row is not None:
        _print(f"added by {entry.row.added_by} {at(entry.row.added_at)}")
        _print(f"changed by {entry.row.changed_by} {at(entry.row.changed_at)}")
    _print(f"last success {at(line.succeeded_at) or 'never'}")
    _each("{1} deliveries are {0}", line.deliveries.items())
    _each("delivery {0}: {1}", ((one.id, one.reason) for one in line.errors))
    if line.probe is not None:
        _print(f"probed by {line.probe.actor} {at(line.probe.at)} {line.probe.reason}".rstrip())
        _capabilities(line.probe)


def _capabilities(probe: "Probe") -> None:
    words: Callable[[bool | None], str] = {True: "yes", False: "no", None: "not known"}.__getitem__
    rows: list[Row] = [((what, words(works), note), ()) for what, works, note in probe.found]
    screen().rows(("asked for", "accepted", ""), rows, empty="nothing was answered")


def _each(form: str, pairs: Iterable[tuple[object, object]]) -> None:
    for pair in pairs:
        _print(form.format(*pair))


def _print(text: str) -> None:
    out.print(text, highlight=False, markup=False, soft_wrap=True)
