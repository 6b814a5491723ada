"""Who may come in: the callers of gateway.toml against an A-ASSOCIATE-RQ (PS3.8 9.3.2 to 9.3.4).

Pure: no I/O, no clock. What is refused is told by which check failed, never by the bytes that failed it. AE titles are names and
no secrets: networks and certificates are what a caller is known by. How much a caller may send is for visits.py.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, Literal, Self, get_args

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

AE_TITLE = re.compile(r"(?!.*\.\./)[\x21-\x5B\x5D-\x7E]([\x20-\x5B\x5D-\x7E]{0,14}[\x21-\x5B\x5D-\x7E])?")
"""PS3.5 6.2 without what would be a path: 1 to 16 printable ASCII characters, no backslash, no space at an end, no "../"."""
Service = Literal["echo", "store", "commitment", "procedure_step"]
SERVICES: tuple[Service, ...] = get_args(Service)
# Verification; Storage Commitment Push Model both ways: who may ask us may report what we asked; Modality Performed Procedure
# Step. Others are of Storage.
_SERVICE_OF: Mapping[str, Service] = {
    "1.2.840.10008.1.1": "echo", "1.2.840.10008.1.20.1": "commitment", "1.2.840.10008.3.1.2.3.3": "procedure_step",
}  # fmt: skip


@dataclass(frozen=True)
class Rejection:
    """An A-ASSOCIATE-RJ (PS3.8 9.3.4), and for log and trail the `words` that say why."""

    result: int
    source: int
    reason: int
    words: str


_unknown_caller = partial(Rejection, 1, 1, 3)
_unknown_called = partial(Rejection, 1, 1, 7)


@dataclass(frozen=True)
class Caller:
    """One allowed caller, as its table in gateway.toml says. None stands for "any", or for "no limit"; an empty set for none."""

    name: str
    calling_ae_title: frozenset[str] | None = None
    called_ae_titles: frozenset[str] | None = None
    """None: our own AE title, and those of ours that are stat."""
    networks: tuple[Network, ...] | None = None
    certificate_names: frozenset[str] | None = None
    """Subject CN or SAN DNS names, compared letter by letter; only over TLS."""
    sop_classes: frozenset[str] | None = None
    """UIDs of Storage; the other services go by `services`."""
    services: frozenset[Service] = frozenset(SERVICES)
    associations_per_minute: int | None = None
    megabytes_per_second: float | None = None
    maximum_associations: int | None = None
    maximum_instance_bytes: int | None = None

    def allows(self, sop_class_uid: str) -> bool:
        """Whether a presentation context of this abstract syntax may be accepted."""
        service = _SERVICE_OF.get(sop_class_uid, "store")
        listed = service != "store" or self.sop_classes is None or sop_class_uid in self.sop_classes
        return service in self.services and listed

    @classmethod
    def from_settings(cls, table: Mapping[str, Any]) -> Self:
        """From JSON's types: lists for sets, text for networks."""
        values = {key: value for key, value in table.items() if value is not None}
        for key in ("calling_ae_title", "called_ae_titles", "certificate_names", "sop_classes", "services"):
            if key in values:
                values[key] = frozenset(_listed(values[key]))
        if "networks" in values:
            values["networks"] = tuple(ip_network(network) for network in _listed(values["networks"]))
        return cls(**values)

    def to_settings(self) -> dict[str, Any]:
        """Inverse of `from_settings`."""
        return {field.name: _plain(getattr(self, field.name)) for field in fields(self)}


ANYONE = Caller("anyone")
"""Who comes in where no callers are configured."""


@dataclass(frozen=True)
class Policy:
    """The callers in the order of the file. None at all: everybody who can reach the port and calls us by a title of ours."""

    ae_title: str
    callers: tuple[Caller, ...] = ()
    stat_ae_titles: tuple[str, ...] = ()
    """Further AE titles of ours; what is sent to one of them is stat."""

    def admit(self, calling: str, called: str, address: str, names: frozenset[str] | None) -> Caller | Rejection:
        """The first caller that fits. `names` are those of the peer's certificate, None without TLS.

        AE titles may come padded with spaces. Where none fits, the one that came furthest says why.
        """
        calling, called = calling.strip(" "), called.strip(" ")
        if AE_TITLE.fullmatch(calling) is None:
            return _unknown_caller("expected a calling AE title of 1 to 16 printable ASCII characters")
        parsed, furthest, words = _address(address), -1, ""
        for caller in self.callers or (ANYONE,):
            checks = self._checks(caller, calling, called, parsed, names)
            passed = next((number for number, (good, _) in enumerate(checks) if not good), None)
            if passed is None:
                return caller
            if passed > furthest:
                furthest, words = passed, checks[passed][1]
        return _unknown_called(words) if furthest == _CALLED else _unknown_caller(words)

    def admit_request(self, address: str, names: frozenset[str] | None) -> Caller | Rejection:
        """The first caller that fits a request over HTTP, which has no AE titles: one known by its network or its certificate.

        A caller of whom only AE titles are known is none here: those are names that anybody may say.
        """
        parsed, words = _address(address), "expected a caller that is known by its network or its certificate"
        for caller in self.callers:
            if caller.networks is None and caller.certificate_names is None:
                continue
            failed = next((why for good, why in self._checks(caller, "", "", parsed, names)[1:_CALLED] if not good), None)
            if failed is None:
                return caller
            words = failed
        return _unknown_caller(words) if self.callers else ANYONE

    def may_store(self, calling: str) -> bool:
        """Whether some caller of that AE title may, from wherever it comes."""
        fitting = [one for one in self.callers or (ANYONE,) if one.calling_ae_title is None or calling in one.calling_ae_title]
        return any("store" in one.services for one in fitting)

    def caller_of(self, ingest: str, calling: str, called: str, address: str) -> str:
        """The name of the caller as which somebody was let in; empty where only a certificate, which nobody kept, would say."""
        has_titles = ingest in ("dimse", "move")
        parsed, wanted = _address(address), (0, 1, _CALLED) if has_titles else (1,)
        fitting = []
        for caller in self.callers:
            checks = self._checks(caller, calling, called, parsed, None)
            is_known = has_titles or caller.networks is not None or caller.certificate_names is not None
            if is_known and all(checks[number][0] for number in wanted):
                fitting.append(caller)
        is_sure = len(fitting) == 1 or bool(fitting and fitting[0].certificate_names is None)
        return fitting[0].name if is_sure else ""

    def _checks(
        self, caller: Caller, calling: str, called: str, address: Address | None, names: frozenset[str] | None
    ) -> tuple[tuple[bool, str], ...]:
        """Each check and the words for its failure, in the order in which they say more and more about who calls."""
        titles, networks, wanted = caller.calling_ae_title, caller.networks, caller.certificate_names
        ours = (self.ae_title, *self.stat_ae_titles) if caller.called_ae_titles is None else caller.called_ae_titles
        return (
            (titles is None or calling in titles, "expected a known calling AE title"),
            (networks is None or _within(address, networks), f"expected an address in the networks of caller {caller.name}"),
            (wanted is None or names is not None, f"expected TLS with a certificate of caller {caller.name}"),
            (wanted is None or not wanted.isdisjoint(names or ()), f"expected a certificate name of caller {caller.name}"),
            (called in ours, "expected one of our AE titles as the called one"),
        )

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        callers = tuple(Caller.from_settings(table) for table in settings["callers"])
        return cls(settings["ae_title"], callers, tuple(settings.get("stat_ae_titles", ())))

    def to_settings(self) -> dict[str, Any]:
        """What JSON can carry to another process; `from_settings` makes the same policy of it."""
        callers = [caller.to_settings() for caller in self.callers]
        return {"ae_title": self.ae_title, "callers": callers, "stat_ae_titles": list(self.stat_ae_titles)}


_CALLED = 4  # the place of that check in _checks


def _address(text: str) -> Address | None:
    """None where it is no address; IPv4 as such where a socket of both families tells it as ::ffff:a.b.c.d."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return (isinstance(address, IPv6Address) and address.ipv4_mapped) or address


def _within(address: Address | None, networks: Iterable[Network]) -> bool:
    return address is not None and any(address in network for network in networks)


def _listed(value: str | Iterable[str]) -> Iterable[str]:
    return (value,) if isinstance(value, str) else value


def _plain(value: Any) -> Any:
    if isinstance(value, frozenset):
        return sorted(value)
    return [str(network) for network in value] if isinstance(value, tuple) else value
