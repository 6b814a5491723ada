"""Tests that share what is made once for them run in one process of the suite, for it would be made in each.

They are those of a file that has a fixture for all its tests, and those of files that name the same xdist_group. xdist 3.8 itself
has lost sight of its groups with pytest 9.2, and says nothing (pytest-dev/pytest-xdist, issue 1386).
"""

import re
from functools import cache
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

ROOT = Path(__file__).parent.parent
_GROUP = re.compile(r'^pytestmark = pytest\.mark\.xdist_group\("(\w+)"\)$', re.MULTILINE)
_SHARES = re.compile(r'scope="module"|: ConsolePlace')


@cache
def group(file: str) -> str:
    """Of the tests in that file; "" where each may run anywhere."""
    text = (ROOT / file).read_text("utf-8")
    if named := _GROUP.search(text):
        return named[1]
    return file if _SHARES.search(text) else ""


class Scheduling(LoadScopeScheduling):
    """Groups first, the one with most tests before the others, then one test at a time."""

    def _split_scope(self, nodeid: str) -> str:
        return group(nodeid.partition("::")[0]) or nodeid


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling | None:
    return Scheduling(config, log) if config.getvalue("dist") == "loadgroup" else None
