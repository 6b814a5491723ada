"""Tests that share something dear run in one process, the others wherever one is idle."""

import pytest

from tests.sharing import group


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("tests/test_storm.py", "tests/test_storm.py"),
        ("tests/test_console_people.py", "tests/test_console_people.py"),
        ("tests/test_ct_lung.py", "lungs"),
        ("tests/test_real_data.py", "lungs"),
        ("tests/test_kill.py", ""),
    ],
)
def test_what_shares_a_fixture_or_a_name_is_one_group(file: str, expected: str) -> None:
    assert group(file) == expected
