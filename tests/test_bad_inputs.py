"""Which test shows which bad input of standards.md 5.5 and which attack of 4.3 at the door, so that a test that goes is missed.

A case of a test is named in brackets behind it.
"""

import ast
from functools import cache

import pytest

from tests.test_faults import HERE, names_in

_BROKEN = "test_ingest_content.py::test_what_is_broken_is_refused_with_its_status_and_the_next_instance_is_taken"
_UNUSUAL = "test_ingest_content.py::test_what_is_unusual_is_kept_as_it_came"
_NAME = "test_ingest_content.py::test_a_hostile_name_is_kept_and_indexed_like_any_other"
_REQUEST = "test_ingest_messages.py::test_what_is_wrong_in_a_request_is_refused_with_its_status_and_the_next_instance_is_taken"
_BEFORE = "test_ingest_hostile.py::test_what_is_no_association_request_is_aborted"
_WITHIN = "test_ingest_hostile.py::test_what_is_not_allowed_within_an_association_aborts_it"
_METADATA = "test_ingest_dicomweb_refused.py::test_metadata_in_json_or_xml_is_refused_and_nothing_is_fetched"
_ZIP = "test_ingest_zip.py::test_a_hostile_zip_is_refused_before_anything_of_it_is_taken"
_AE_TITLES = (
    "test_policy.py::test_what_is_no_ae_title_is_rejected_by_whoever_lets_everybody_in",
    "test_policy.py::test_hostile_text_is_rejected_without_being_quoted",
    "test_ingest_hostile.py::test_an_ae_title_that_is_none_is_rejected_and_harmless_in_the_trail",
)


def _cases(test: str, *cases: str) -> tuple[str, ...]:
    return tuple(f"{test}[{case}]" for case in cases)


SHOWN: dict[str, tuple[str, ...]] = {
    "B01": _cases(_BROKEN, "noise", "zeros"),
    "B02": (
        *_cases(_BROKEN, "a data set that is cut in an element", "a data set that is cut in a header"),
        "test_scan.py::test_every_truncation_is_refused_but_one_between_two_elements",
    ),
    "B03": (
        *_cases(_REQUEST, "no data set", "an empty data set"),
        "test_ingest_messages.py::test_who_announces_a_data_set_and_sends_none_frees_its_slot",
    ),
    "B04": (*_cases(_BROKEN, "another SOP instance", "no SOP instance"), *_cases(_REQUEST, "another SOP instance")),
    "B05": _cases(_BROKEN, "another SOP class", "no SOP class"),
    "B06": _cases(_REQUEST, "a SOP class outside its context", "no SOP class", "no storage"),
    "B07": (
        *_cases(_REQUEST, "a path", "an absolute path", "a NUL within", "a leading zero", "65 characters", "no SOP instance"),
        *_cases(_REQUEST, "letters", "a dot at its end", "a space at its end", "digits of another script"),
        "test_ingest_messages.py::test_a_uid_may_end_in_the_one_nul_that_makes_it_even",
        "test_ingest_messages.py::test_a_uid_that_ends_in_more_nuls_is_refused",
    ),
    "B08": _AE_TITLES,
    "B09": (*_cases(_BROKEN, "no study", "no series", "a series that is a path"), *_cases(_UNUSUAL, "no patient")),
    "B10": _cases(_BROKEN, "a length past the end", "a length of almost 4 GB"),
    "B11": (
        *_cases(_BROKEN, "pixels that are short by two bytes"),
        *_cases(_UNUSUAL, "a byte more of pixels, which makes them even"),
        "test_scan.py::test_native_pixels_may_be_longer_than_the_image_but_not_shorter",
    ),
    "B12": (
        *_cases(_BROKEN, "implicit VR where explicit was agreed on"),
        "test_scan.py::test_what_is_encoded_in_the_other_vr_than_declared_is_refused",
    ),
    "B13": (*_cases(_BROKEN, "big endian"), "test_ingest.py::test_big_endian_and_deflate_are_not_negotiated"),
    "B17": (
        "test_ingest.py::test_big_endian_and_deflate_are_not_negotiated",
        "test_ingest_dicomweb_refused.py::test_a_compressed_body_is_refused_unread",
        *_cases(_ZIP, "a bomb"),
    ),
    "B18": (
        *_cases(_BROKEN, "3,000 nested sequences", "3,000 nested sequences of undefined length"),
        *_cases(_BROKEN, "100,000 nested sequences", "100,000 nested sequences of undefined length"),
        "test_scan.py::test_a_depth_bomb_is_refused_at_once_and_in_little_memory",
    ),
    "B19": (*_cases(_BROKEN, "a million items", "a million elements"), "test_scan.py::test_items_and_wrong_guesses_count_as_elements"),
    "B36": ("test_ingest_content.py::test_other_bytes_under_the_same_uid_are_taken_kept_apart_and_told",),
    "B37": ("test_ingest_content.py::test_a_series_that_comes_in_another_study_is_taken_kept_apart_and_told",),
    "B40": (
        _NAME,
        "test_canary.py::test_what_identifies_a_patient_is_in_the_store_and_in_the_table_of_studies_and_nowhere_else",
    ),
    "B41": (
        "test_ingest_dicomweb.py::test_a_preamble_that_could_be_a_program_is_not_kept_and_somebody_is_told",
        "test_ingest_folder.py::test_a_preamble_may_be_anything_and_is_not_kept",
    ),
    "B42": ("test_ingest_dicomweb.py::test_a_part_that_is_no_ps3_10_file_is_refused_without_a_name",),
    "B43": ("test_ingest_dicomweb.py::test_a_file_meta_that_says_other_than_its_data_set_is_refused",),
    "B44": (
        *_cases(_UNUSUAL, "a private value of 1 MB", "a private value of 100 MB"),
        *_cases(_BROKEN, "an unknown VR"),
        "test_scan.py::test_a_value_that_is_not_pixels_has_a_limit",
        "test_header.py::test_private_elements_are_left_out_at_every_depth",
    ),
    "B45": (
        *_cases(_BROKEN, "an unknown VR", "a VR in lower case", "UN of undefined length without an end"),
        *_cases(_UNUSUAL, "UN of undefined length with implicit items"),
    ),
    "B46": _cases(_UNUSUAL, "an attribute twice", "attributes out of order", "a group length that is wrong"),
    "B52": (
        *_cases(_BEFORE, "an unknown type", "no length", "4 GB", "no context", "an even context ID", "a context ID twice"),
        *_cases(_BEFORE, "200 contexts"),
        *_cases(_WITHIN, "P-DATA without a length", "P-DATA of 4 GB", "a fragment longer than its PDU", "10,000 fragments"),
        *_cases(_WITHIN, "an even context ID", "context ID 255"),
    ),
    "B53": ("test_ingest_messages.py::test_answers_come_whatever_length_of_pdu_the_other_side_takes",),
    "B54": (
        "test_ingest_messages.py::test_what_is_no_command_set_aborts_the_association",
        "test_ingest_messages.py::test_a_wrong_group_length_is_not_believed",
        "test_ingest_messages.py::test_a_message_id_that_comes_again_is_answered_again",
        "test_ingest_messages.py::test_an_operation_that_is_not_offered_is_answered_0211",
        "test_ingest_messages.py::test_what_answers_or_cancels_nothing_is_passed_over",
    ),
    "B55": (
        "test_ingest_messages.py::test_messages_that_come_in_one_burst_are_answered_one_by_one_in_their_order",
        "test_ingest_messages.py::test_items_that_are_not_negotiated_here_are_passed_over",
    ),
    "B56": (
        "test_ingest_dicomweb_refused.py::test_a_request_of_doubtful_framing_is_refused_and_its_connection_ends",
        "test_ingest_dicomweb_limits.py::test_an_absurd_length_is_not_believed",
        "test_ingest_dicomweb_refused.py::test_a_compressed_body_is_refused_unread",
        "test_ingest_dicomweb_limits.py::test_a_million_parts_are_refused_at_the_limit_without_being_held",
        "test_ingest_dicomweb_refused.py::test_a_media_type_that_we_do_not_take_is_refused_and_told_in_the_trail",
        "test_ingest_dicomweb_refused.py::test_a_whole_boundary_in_the_pixels_cuts_the_instance_and_it_is_not_stored",
        "test_ingest_dicomweb_refused.py::test_a_part_of_another_type_is_refused_and_the_others_are_stored",
    ),
    "B57": (
        *_cases(_METADATA, "deep", "bulk data at an address", "bulk data in a file"),
        "test_ingest_dicomweb_refused.py::test_a_large_request_that_is_refused_still_gets_its_answer",
    ),
    "B58": _cases(_METADATA, "entity", "include"),
    "B59": _cases(
        _ZIP, "traversal", "traversal with backslashes", "a link", "a bomb", "much in all", "encrypted", "the same name twice",
        "overlapping", "many entries",
    ),
    "B60": (
        "test_query.py::test_what_is_no_query_is_refused",
        "test_query.py::test_a_pattern_of_stars_costs_no_more_than_its_length_times_that_of_the_text",
        "test_query.py::test_a_page_is_never_longer_than_the_longest",
        "test_dicomweb_server.py::test_what_cannot_be_answered_says_what_was_expected",
        "test_ingest_dicomweb_refused.py::test_a_head_without_end_is_refused",
    ),
    "B63": _AE_TITLES,
    "4.3 silent connect": ("test_ingest_hostile.py::test_who_does_not_associate_in_time_is_cut_off",),
    "4.3 half a header": ("test_ingest_hostile.py::test_who_does_not_associate_in_time_is_cut_off",),
    "4.3 a byte now and then": (
        "test_ingest_hostile.py::test_who_sends_a_byte_now_and_then_gains_no_time_by_it",
        "test_ingest_hostile.py::test_a_pdu_that_does_not_end_in_time_ends_its_association",
    ),
    "4.3 a claim of 2 GB": ("test_ingest_hostile.py::test_a_claim_of_2_gb_is_not_believed",),
    "4.3 half open": (
        "test_ingest_hostile.py::test_half_open_connections_of_one_address_leave_room_for_another",
        "test_ingest_hostile.py::test_where_half_open_connections_leave_no_room_the_oldest_of_whoever_has_most_makes_it",
    ),
    "4.3 silent on the port with TLS": (
        "test_tls.py::test_others_get_in_while_one_says_nothing",
        "test_ingest_tls.py::test_who_does_not_end_its_handshake_holds_nobody_up_and_is_cut_off",
    ),
}  # fmt: skip

REMARKS: dict[str, str] = {
    "B40": "what a page escapes is for the tests of the pages",
    "B57": "a value of 1 GB in JSON is refused by its media type, unread, as 20 MB are",
}
NUMBERS = (*range(1, 14), *range(17, 20), 36, 37, *range(40, 47), *range(52, 61), 63)
BAD_INPUTS = tuple(f"B{number:02d}" for number in NUMBERS)


@cache
def texts_in(file: str) -> frozenset[str]:
    tree = ast.parse((HERE / file).read_text())
    return frozenset(node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str))


def is_there(named: str) -> bool:
    file, _, test = named.partition("::")
    name, _, case = test.removesuffix("]").partition("[")
    return name in names_in(file) and (not case or case in texts_in(file))


@pytest.mark.parametrize("number", [*BAD_INPUTS, *(one for one in SHOWN if one.startswith("4.3"))])
def test_a_bad_input_is_shown_by_tests_that_are_there(number: str) -> None:
    assert SHOWN.get(number), f"{number}: expected a test"
    assert [named for named in SHOWN[number] if not is_there(named)] == []


def test_the_table_names_no_bad_input_that_is_not_the_doors() -> None:
    assert {one for one in (*SHOWN, *REMARKS) if not one.startswith("4.3")} <= set(BAD_INPUTS)


def test_a_test_or_a_case_that_goes_is_missed() -> None:
    assert is_there(f"{_BROKEN}[noise]")
    assert not is_there(f"{_BROKEN}[no such case]")
    assert not is_there("test_ingest_content.py::test_that_is_not_there")
    assert not is_there("test_that_is_not_there.py::test_that_is_not_there")
