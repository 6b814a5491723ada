"""Who may come in and how much: each check of a caller, what is counted, and the numbers of PS3.8 9.3.4 for those who may not."""

import json
import mmap
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.doors.policy import ANYONE, SERVICES, Caller, Policy, Rejection
from gateway.doors.visits import Limits, Visit

CT, MR, ECHO, COMMITMENT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.1.1", "1.2.840.10008.1.20.1"
UNKNOWN_CALLING, UNKNOWN_CALLED = (1, 1, 3), (1, 1, 7)


def policy(*tables: dict[str, Any]) -> Policy:
    named = [{"name": f"caller {number}", **table} for number, table in enumerate(tables)]
    return Policy.from_settings({"ae_title": "AIGATEWAY", "callers": named})


def admitted(found: Caller | Rejection) -> str:
    """Its name, or a failed test with the words of the rejection."""
    assert isinstance(found, Caller), found
    return found.name


def numbers(found: object) -> tuple[int, int, int]:
    assert isinstance(found, Rejection), found
    return found.result, found.source, found.reason


def test_without_callers_everybody_is_let_in_who_calls_us_by_our_name() -> None:
    open_to_all = policy()

    assert open_to_all.admit("ANY", "AIGATEWAY", "203.0.113.9", None) is ANYONE
    assert numbers(open_to_all.admit("ANY", "OTHER", "203.0.113.9", None)) == UNKNOWN_CALLED


def test_with_callers_everybody_else_is_rejected() -> None:
    only_ct1 = policy({"calling_ae_title": "CT1"})

    assert admitted(only_ct1.admit("CT1", "AIGATEWAY", "10.0.0.1", None)) == "caller 0"
    assert numbers(only_ct1.admit("CT2", "AIGATEWAY", "10.0.0.1", None)) == UNKNOWN_CALLING


@pytest.mark.parametrize("title", ["CT1", "CT1      ", "  CT1", "             CT1"])
def test_ae_titles_are_compared_without_the_spaces_around_them(title: str) -> None:
    assert admitted(policy({"calling_ae_title": ["CT1", "CT2"]}).admit(title, f" {'AIGATEWAY':15}", "10.0.0.1", None))


@pytest.mark.parametrize("title", ["ct1", "CT 1", "CT", "CT11", "С\u200bT1", "СT1", "\uff23\uff34\uff11", "CT1\x00", "CT1\t"])
def test_an_ae_title_is_compared_letter_by_letter(title: str) -> None:
    assert numbers(policy({"calling_ae_title": "CT1"}).admit(title, "AIGATEWAY", "10.0.0.1", None)) == UNKNOWN_CALLING


@pytest.mark.parametrize(
    "title",
    [
        "",
        " " * 16,
        "SEVENTEEN_LETTERS",
        "A\x00",
        "A\x7f",
        "A\n",
        "\tA",
        "ÄRZTE",
        "A\\B",
        "../etc",
        "a/../b",
        "A\u202e",
        "\u00a0A",
    ],
)
def test_what_is_no_ae_title_is_rejected_by_whoever_lets_everybody_in(title: str) -> None:
    for anyone in (policy(), policy({})):
        assert numbers(anyone.admit(title, "AIGATEWAY", "10.0.0.1", None)) == UNKNOWN_CALLING


@given(st.text(max_size=20), st.text(max_size=20), st.text(max_size=20))
def test_hostile_text_is_rejected_without_being_quoted(calling: str, called: str, address: str) -> None:
    found = policy({"calling_ae_title": "CT1", "networks": "10.0.0.0/8"}).admit(f"{calling}\u2603", called, address, None)

    assert numbers(found) == UNKNOWN_CALLING
    assert isinstance(found, Rejection)
    assert found.words == "expected a calling AE title of 1 to 16 printable ASCII characters"


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=16).filter(lambda title: title.strip() != "CT1"))
def test_no_other_title_is_let_in(title: str) -> None:
    assert numbers(policy({"calling_ae_title": "CT1"}).admit(title, "AIGATEWAY", "10.0.0.1", None)) == UNKNOWN_CALLING


@pytest.mark.parametrize("called", ["OTHER", "", "aigateway", "AIGATEWAY2", "AIGATEWAY\x00"])
def test_another_called_ae_title_is_told_as_such(called: str) -> None:
    assert numbers(policy({"calling_ae_title": "CT1"}).admit("CT1", called, "10.0.0.1", None)) == UNKNOWN_CALLED


def test_who_is_not_known_is_not_told_our_ae_titles() -> None:
    assert numbers(policy({"calling_ae_title": "CT1"}).admit("CT2", "OTHER", "10.0.0.1", None)) == UNKNOWN_CALLING


def test_a_caller_may_call_us_by_further_ae_titles_and_then_by_those_only() -> None:
    further = policy({"called_ae_titles": ["AIGATEWAY_STAT", "AIGATEWAY_2"]})

    assert admitted(further.admit("CT1", "AIGATEWAY_STAT", "10.0.0.1", None))
    assert numbers(further.admit("CT1", "AIGATEWAY", "10.0.0.1", None)) == UNKNOWN_CALLED


@pytest.mark.parametrize(
    ("address", "inside"),
    [
        ("10.1.2.3", True),
        ("10.2.0.1", False),
        ("192.0.2.7", True),
        ("192.0.2.8", False),
        ("::ffff:10.1.2.3", True),
        ("::ffff:10.2.0.1", False),
        ("fd00::1", True),
        ("fd00::1%eth0", True),
        ("fe80::1", False),
        ("10.1.2.3.4", False),
        ("10.1.2.03", False),
        ("", False),
        ("scanner.hospital.test", False),
    ],
)
def test_a_caller_comes_from_its_networks_only(address: str, inside: bool) -> None:
    found = policy({"networks": ["10.1.0.0/16", "192.0.2.7", "fd00::/8"]}).admit("CT1", "AIGATEWAY", address, None)

    assert isinstance(found, Caller) == inside
    assert inside or numbers(found) == UNKNOWN_CALLING


@given(st.ip_addresses(), st.ip_addresses(network="10.1.0.0/16"))
def test_networks_hold_what_they_say(some: Any, within: Any) -> None:
    found = policy({"networks": "10.1.0.0/16"})

    assert admitted(found.admit("CT1", "AIGATEWAY", str(within), None))
    expected = some.version == 4 and str(some).startswith("10.1.")
    assert isinstance(found.admit("CT1", "AIGATEWAY", str(some), None), Caller) == (
        expected or (some.version == 6 and str(some.ipv4_mapped or "").startswith("10.1."))
    )


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (None, "expected TLS with a certificate of caller caller 0"),
        (frozenset(), "expected a certificate name of caller caller 0"),
        (frozenset({"CT2", "ct1"}), "expected a certificate name of caller caller 0"),
    ],
)
def test_a_caller_with_certificate_names_needs_one_of_them(names: frozenset[str] | None, words: str) -> None:
    with_certificate = policy({"certificate_names": ["CT1", "ct1.hospital.test"]})

    found = with_certificate.admit("CT1", "AIGATEWAY", "10.0.0.1", names)

    assert admitted(with_certificate.admit("CT1", "AIGATEWAY", "10.0.0.1", frozenset({"x", "ct1.hospital.test"})))
    assert numbers(found) == UNKNOWN_CALLING
    assert isinstance(found, Rejection) and found.words == words


def test_a_certificate_is_no_pass_for_another_ae_title() -> None:
    mapped = policy(
        {"calling_ae_title": "CT1", "certificate_names": ["CT1"]}, {"calling_ae_title": "MR1", "certificate_names": ["MR1"]}
    )

    assert numbers(mapped.admit("MR1", "AIGATEWAY", "10.0.0.1", frozenset({"CT1"}))) == UNKNOWN_CALLING


def test_without_certificate_names_tls_is_neither_asked_nor_in_the_way() -> None:
    for names in (None, frozenset({"CT1"})):
        assert admitted(policy({"calling_ae_title": "CT1"}).admit("CT1", "AIGATEWAY", "10.0.0.1", names))


def test_the_first_caller_that_fits_is_taken() -> None:
    ordered = policy({"networks": "10.1.0.0/16"}, {"calling_ae_title": "CT1"}, {})

    found = [
        ordered.admit(title, "AIGATEWAY", address, None) for title, address in (("CT1", "10.1.0.1"), ("CT1", "::1"), ("X", "::1"))
    ]

    assert [admitted(one) for one in found] == ["caller 0", "caller 1", "caller 2"]


@pytest.mark.parametrize(
    ("calling", "address", "names", "words"),
    [
        ("XX", "10.1.0.1", None, "expected a known calling AE title"),
        ("CT1", "10.9.0.1", None, "expected an address in the networks of caller caller 0"),
        ("CT1", "10.1.0.1", None, "expected one of our AE titles as the called one"),
        ("MR1", "10.1.0.1", None, "expected TLS with a certificate of caller caller 1"),
        ("MR1", "10.1.0.1", frozenset(), "expected a certificate name of caller caller 1"),
    ],
)
def test_the_check_that_failed_is_told_of_the_caller_that_came_furthest(calling, address, names, words) -> None:
    tables = (
        {"calling_ae_title": "CT1", "networks": "10.1.0.0/16", "called_ae_titles": ["STAT"]},
        {"calling_ae_title": "MR1", "certificate_names": ["MR1"]},
    )

    for order in (policy(*tables), Policy("AIGATEWAY", policy(*tables).callers[::-1])):
        found = order.admit(calling, "AIGATEWAY", address, names)
        assert isinstance(found, Rejection) and found.words == words


@pytest.mark.parametrize(
    ("table", "allowed"),
    [
        ({}, {CT, MR, ECHO, COMMITMENT}),
        ({"sop_classes": [CT]}, {CT, ECHO, COMMITMENT}),
        ({"services": ["echo"]}, {ECHO}),
        ({"services": ["store"], "sop_classes": [MR]}, {MR}),
        ({"services": ["commitment"], "sop_classes": [MR]}, {COMMITMENT}),
        ({"sop_classes": [CT, ECHO], "services": ["store"]}, {CT}),
    ],
)
def test_a_caller_is_allowed_its_services_and_of_storage_its_sop_classes(table: dict[str, Any], allowed: set[str]) -> None:
    (caller,) = policy(table).callers

    assert {uid for uid in (CT, MR, ECHO, COMMITMENT) if caller.allows(uid)} == allowed


some_titles = st.none() | st.frozensets(st.sampled_from(["CT1", "MR1", "A B"]), min_size=1)
callers = st.builds(
    Caller,
    name=st.sampled_from(["a", "b"]),
    calling_ae_title=some_titles,
    called_ae_titles=some_titles,
    networks=st.none() | st.lists(st.ip_addresses(v=4).map(str) | st.just("fd00::/8")).map(lambda found: policy({"networks": found}).callers[0].networks),
    certificate_names=some_titles,
    sop_classes=st.none() | st.just(frozenset({CT})),
    services=st.frozensets(st.sampled_from(SERVICES)),
    associations_per_minute=st.none() | st.integers(1, 100),
    megabytes_per_second=st.none() | st.floats(0.1, 100),
)  # fmt: skip


@given(st.lists(callers))
def test_a_policy_comes_through_json_as_it_was(found: list[Caller]) -> None:
    sent = Policy("AIGATEWAY", tuple(found))

    assert Policy.from_settings(json.loads(json.dumps(sent.to_settings()))) == sent


def test_a_network_with_host_bits_is_no_network() -> None:
    with pytest.raises(ValueError, match="host bits"):
        policy({"networks": "10.1.2.3/16"})


CONGESTED, OVER_LIMIT = (2, 3, 1), (2, 3, 2)


def pair(**table: Any) -> Policy:
    return Policy("AIGATEWAY", (Caller("ct", **table), Caller("other")))


def limits(ours: Policy, **settings: Any) -> Limits:
    return Limits(ours, **{"maximum_associations": 100, "maximum_per_address": 100, "maximum_half_open": 100, **settings})


def entered(counted: Limits, address: str = "10.0.0.1") -> Visit:
    found = counted.enter(address)
    assert isinstance(found, Visit), found
    return found


def begun(counted: Limits, caller: Caller, now: float = 0.0) -> Visit:
    visit = entered(counted)
    assert visit.begin(caller, now) is None
    return visit


def test_connections_of_one_address_are_limited_and_those_of_another_are_not() -> None:
    counted = limits(pair(), maximum_per_address=2)
    first = entered(counted)
    entered(counted)

    assert numbers(counted.enter("10.0.0.1")) == OVER_LIMIT
    entered(counted, "10.0.0.2")
    first.leave()
    entered(counted)


def test_of_too_many_that_do_not_associate_the_oldest_of_whoever_has_most_makes_room_and_never_begins() -> None:
    ours, called = pair(), list[str]()
    counted = limits(ours, maximum_half_open=3)

    def come(name: str, address: str) -> Visit:
        found = counted.enter(address, lambda: called.append(name))
        assert isinstance(found, Visit)
        return found

    come("other", "10.0.0.2")
    first, second = come("first", "10.0.0.1"), come("second", "10.0.0.1")
    come("newcomer", "10.0.0.3")

    assert called == ["first"]
    assert numbers(first.begin(ours.callers[0], 0)) == OVER_LIMIT
    assert second.begin(ours.callers[0], 0) is None
    for visit in (first, first, second):
        visit.leave()
    come("third", "10.0.0.1")
    assert called == ["first"]
    come("fourth", "10.0.0.1")
    assert called == ["first", "third"]  # where all have as many, it is the turn of who comes


def test_an_association_makes_room_for_nobody() -> None:
    ours, called = pair(), list[str]()
    counted = limits(ours, maximum_half_open=1)
    established = counted.enter("10.0.0.1", lambda: called.append("established"))
    assert isinstance(established, Visit) and established.begin(ours.callers[0], 0) is None

    entered(counted, "10.0.0.1")
    entered(counted, "10.0.0.1")

    assert not called and not established.is_displaced


def test_a_rejected_association_goes_on_counting_as_half_open_until_it_leaves() -> None:
    ours = pair(maximum_associations=1)
    counted = limits(ours, maximum_half_open=1)
    begun(counted, ours.callers[0])
    second = entered(counted)

    assert numbers(second.begin(ours.callers[0], 0)) == OVER_LIMIT
    entered(counted, "10.0.0.2")
    assert second.is_displaced


def test_associations_of_all_callers_are_limited() -> None:
    ours = pair()
    counted = limits(ours, maximum_associations=2)
    first = begun(counted, ours.callers[0])
    begun(counted, ours.callers[1])

    assert numbers(entered(counted).begin(ours.callers[0], 0)) == OVER_LIMIT
    first.leave()
    begun(counted, ours.callers[0])


def test_associations_of_one_caller_are_limited_and_those_of_another_are_not() -> None:
    ours = pair(maximum_associations=1)
    counted = limits(ours)
    first = begun(counted, ours.callers[0])

    found = entered(counted).begin(ours.callers[0], 0)
    assert numbers(found) == OVER_LIMIT
    assert isinstance(found, Rejection) and found.words == "expected fewer associations of caller ct"
    begun(counted, ours.callers[1])
    first.leave()
    begun(counted, ours.callers[0])


def test_a_request_is_an_association_of_its_caller_and_none_of_all_that_are_limited_together() -> None:
    ours = pair(maximum_associations=2, associations_per_minute=4, megabytes_per_second=1.0)
    counted, caller = limits(ours, maximum_associations=1, maximum_per_address=1, maximum_half_open=1), ours.callers[0]

    assert counted.begin_request(caller, 0) is None
    association = begun(counted, caller)
    found = counted.begin_request(caller, 0)
    assert isinstance(found, Rejection) and found.words == "expected fewer associations of caller ct"
    assert counted.pause(caller, 1_000_000, 0.0) == 0.0
    assert association.pause(1_000_000, 0.0) == 1.0

    counted.end_request(caller)
    association.leave()
    assert [counted.begin_request(caller, 0) for _ in range(2)] == [None, None]
    counted.end_request(caller)
    found = counted.begin_request(caller, 0)
    assert isinstance(found, Rejection) and found.words == "expected fewer associations a minute of caller ct"


def test_a_connection_that_leaves_twice_is_counted_once() -> None:
    ours = pair(maximum_associations=1)
    counted = limits(ours)
    with begun(counted, ours.callers[0]) as visit:
        visit.leave()

    begun(counted, ours.callers[0])
    assert numbers(entered(counted).begin(ours.callers[0], 0)) == OVER_LIMIT


def test_while_draining_nobody_begins_and_the_reason_is_told() -> None:
    ours = pair()
    counted = limits(ours)
    counted.draining = "the gateway is about to stop"

    found = entered(counted).begin(ours.callers[0], 0)

    assert numbers(found) == CONGESTED
    assert isinstance(found, Rejection) and found.words == "the gateway is about to stop"
    counted.draining = ""
    begun(counted, ours.callers[0])


def test_associations_a_minute_are_limited_and_come_back_one_by_one() -> None:
    ours = pair(associations_per_minute=3)
    counted, (caller, _) = limits(ours), ours.callers

    def tried(now: float) -> bool:
        with entered(counted) as visit:
            return visit.begin(caller, now) is None

    assert [tried(1000.0) for _ in range(5)] == [True, True, True, False, False]
    assert [tried(now) for now in (1019.9, 1020.1, 1020.2, 1040.1)] == [False, True, False, True]
    assert [tried(2000.0) for _ in range(4)] == [True, True, True, False]


@given(st.integers(1, 30), st.lists(st.floats(0, 20), min_size=1, max_size=200), st.floats(0, 1e6))
def test_no_minute_lets_more_in_than_a_full_bucket_and_a_minutes_worth(rate: int, waits: list[float], start: float) -> None:
    ours = pair(associations_per_minute=rate)
    counted, let_in, now = limits(ours), [], start
    for wait in waits:
        now += wait
        with entered(counted) as visit:
            if visit.begin(ours.callers[0], now) is None:
                let_in.append(now)

    assert let_in
    for first, begin in enumerate(let_in):
        for last in range(first, len(let_in)):
            assert last - first + 1 <= rate + rate * (let_in[last] - begin) / 60 + 1e-3


def test_without_a_limit_nobody_waits() -> None:
    ours = pair()

    assert begun(limits(ours), ours.callers[0]).pause(10**12, 0.0) == 0.0


def test_bytes_ahead_of_the_rate_are_waited_for_beyond_the_first_second() -> None:
    ours = pair(megabytes_per_second=2.0)
    visit = begun(limits(ours), ours.callers[0])

    assert visit.pause(2_000_000, 10.0) == 0.0
    assert visit.pause(1_000_000, 10.0) == 0.5
    assert visit.pause(1_000_000, 10.5) == 0.5
    assert visit.pause(2_000_000, 100.0) == 0.0


@given(st.lists(st.tuples(st.integers(0, 5_000_000), st.floats(0, 3)), min_size=1, max_size=100))
def test_who_waits_as_told_sends_no_more_than_its_megabytes_a_second(steps: list[tuple[int, float]]) -> None:
    ours = pair(megabytes_per_second=1.5)
    visit = begun(limits(ours), ours.callers[0])
    now, sent = 500.0, 0
    for count, idle in steps:
        sent += count
        now += visit.pause(count, now)
        assert sent <= 1_500_000 * (now - 500.0 + 1) + 10
        now += idle


def test_the_associations_of_a_caller_share_its_megabytes() -> None:
    ours = pair(megabytes_per_second=1.0)
    counted = limits(ours)
    one, other, foreign = (begun(counted, caller) for caller in (*ours.callers[:1] * 2, ours.callers[1]))

    assert one.pause(1_000_000, 0.0) == 0.0
    assert other.pause(1_000_000, 0.0) == 1.0
    assert foreign.pause(1_000_000, 0.0) == 0.0


def test_without_callers_the_limits_of_all_still_hold() -> None:
    counted = limits(Policy("AIGATEWAY"), maximum_associations=1)
    begun(counted, ANYONE)

    assert numbers(entered(counted).begin(ANYONE, 0)) == OVER_LIMIT


def test_addresses_that_are_gone_are_forgotten() -> None:
    counted = limits(pair())

    for number in range(1000):
        entered(counted, f"10.0.{number // 256}.{number % 256}").leave()

    assert not counted._addresses


def shared_numbers(ours: Policy, processes: int) -> memoryview:
    return memoryview(mmap.mmap(-1, 8 * Limits.size(ours, processes))).cast("q")


def test_processes_that_share_their_numbers_count_together() -> None:
    ours = pair(maximum_associations=2, associations_per_minute=3, megabytes_per_second=1.0)
    shared = shared_numbers(ours, 2)
    one, two = (limits(ours, shared=shared, process=number, processes=2) for number in range(2))

    first, second = begun(one, ours.callers[0]), begun(two, ours.callers[0])
    assert numbers(entered(one).begin(ours.callers[0], 0)) == OVER_LIMIT
    assert first.pause(1_000_000, 0.0) == 0.0
    assert second.pause(1_000_000, 0.0) == 1.0
    first.leave()
    third = begun(two, ours.callers[0])
    third.leave()
    found = entered(one).begin(ours.callers[0], 0)
    assert isinstance(found, Rejection) and "a minute" in found.words


def test_associations_of_a_process_that_died_are_forgotten_when_its_successor_begins() -> None:
    ours = pair(maximum_associations=2)
    shared = shared_numbers(ours, 2)
    dead, living = (limits(ours, shared=shared, process=number, processes=2) for number in range(2))
    begun(dead, ours.callers[0])
    begun(living, ours.callers[0])

    limits(ours, shared=shared, process=0, processes=2)

    begun(living, ours.callers[0])
    assert numbers(entered(living).begin(ours.callers[0], 0)) == OVER_LIMIT


def test_a_process_that_got_the_policy_by_json_counts_the_same_callers() -> None:
    ours = pair(maximum_associations=1)
    there = Policy.from_settings(json.loads(json.dumps(ours.to_settings())))
    shared = shared_numbers(ours, 2)
    here, elsewhere = limits(ours, shared=shared, processes=2), limits(there, shared=shared, process=1, processes=2)
    begun(here, ours.callers[0])

    assert numbers(entered(elsewhere).begin(there.callers[0], 0)) == OVER_LIMIT


def test_threads_at_the_same_time_never_pass_the_limit() -> None:
    ours = pair(maximum_associations=3)
    counted, let_in, start = limits(ours), [], threading.Barrier(8)

    def come() -> None:
        start.wait(20)
        for _ in range(50):
            visit = entered(counted)
            if visit.begin(ours.callers[0], 0.0) is None:
                let_in.append(visit)
            else:
                visit.leave()

    threads = [threading.Thread(target=come) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)

    assert len(let_in) == 3
    for visit in let_in:
        visit.leave()
    assert [begun(counted, ours.callers[0]) for _ in range(3)]
    assert not counted._half_open


def test_a_request_is_let_in_by_network_or_certificate_and_never_for_an_ae_title() -> None:
    named = policy({"calling_ae_title": "CT1"})
    near = policy({"calling_ae_title": "CT1"}, {"networks": ["10.0.0.0/8"]})
    certified = policy({"certificate_names": ["ct1"], "networks": ["10.0.0.0/8"]})

    assert isinstance(named.admit_request("10.0.0.1", None), Rejection)
    assert admitted(near.admit_request("10.0.0.1", None)) == "caller 1"
    assert isinstance(near.admit_request("192.168.0.1", None), Rejection)
    assert admitted(certified.admit_request("10.0.0.1", frozenset(("ct1",)))) == "caller 0"
    assert isinstance(certified.admit_request("10.0.0.1", None), Rejection)
    assert isinstance(certified.admit_request("10.0.0.1", frozenset(("ct2",))), Rejection)
    assert admitted(policy().admit_request("192.168.0.1", None)) == ANYONE.name
