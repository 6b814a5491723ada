"""Live parts of pages that many look at are rendered once: for a version of the world, and for all who see the same of it.

While something happens all the time, a part is rendered every three seconds and not for each viewer. Whoever asks has been let in
before (who.py); who may do more sees other buttons, so a part whose template asks who looks is shared by people of one role only.
"""

import secrets
import threading
import time
from collections.abc import Hashable
from functools import lru_cache
from typing import NamedTuple

from fastapi import Request
from jinja2 import Environment, meta, nodes

_FRESH_SECONDS, _MOST_KEPT = 3.0, 500
CSRF = secrets.token_hex(32)
"""Stands in a kept text for the token of whoever gets it."""


class Rendered(NamedTuple):
    version: int
    at: float
    text: str


class Shared:
    """Safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[Hashable, Rendered] = {}

    def find(self, request: Request, version: int, seen: int) -> Rendered | None:
        """As good as one of this version, and not older than what was `seen`."""
        now = time.monotonic()
        with self._lock:
            kept = [self._kept.get(_key(request, is_of_all=is_of_all)) for is_of_all in (True, False)]
        found = next((one for one in kept if one is not None), None)
        if found is None or (found.version != version and (found.version < seen or now - found.at >= _FRESH_SECONDS)):
            return None
        return found

    def keep(self, request: Request, version: int, text: str, *, is_of_all: bool) -> None:
        with self._lock:
            if len(self._kept) >= _MOST_KEPT:
                self._kept.clear()
            self._kept[_key(request, is_of_all=is_of_all)] = Rendered(version, time.monotonic(), text)


def is_live(request: Request) -> bool:
    """Whether it is a part of a page that looks for news; what was searched for is nobody else's."""
    is_part = "seen" in request.query_params and "sought" not in request.query_params
    return request.method == "GET" and is_part and getattr(request.state, "person", None) is not None


class Asks(NamedTuple):
    """What a template shows: whether it is a part of a page by itself, and whether that depends on what the person may."""

    is_part: bool
    who: bool


@lru_cache
def asks(environment: Environment, template: str) -> Asks:
    """A whole page names the person who looks, in what it extends: it is nobody else's."""
    assert environment.loader
    source, _, _ = environment.loader.get_source(environment, template)
    tree = environment.parse(source)
    named = meta.find_undeclared_variables(tree)
    is_whole = any(tree.find(kind) for kind in (nodes.Extends, nodes.Include))
    is_part = not is_whole and not named & {"request", "navigation", "told"}
    return Asks(is_part, "person" in named)


def _key(request: Request, *, is_of_all: bool) -> Hashable:
    asked = tuple(sorted((name, value) for name, value in request.query_params.multi_items() if name != "seen"))
    return request.url.path, asked, "" if is_of_all else request.state.person.role
