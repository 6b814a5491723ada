"""The body of an answer over HTTP, bounded: as much of it as an honest one can need, in as much time."""

import time

import httpx2

from gateway.errors import Unreachable

_LEAST_BYTES_PER_SECOND = 1000


def read(response: httpx2.Response, at_most: int, error: type[Unreachable] = Unreachable) -> bytes:
    """Raises `error` where it is too long; who lets it trickle is waited for no longer than who says nothing."""
    body, began, seconds = bytearray(), time.monotonic(), float(response.request.extensions["timeout"]["read"])
    for chunk in response.iter_bytes():
        body += chunk
        if len(body) > at_most:
            raise error("the answer is longer than one of its kind can be")
        if time.monotonic() - began > seconds + len(body) / _LEAST_BYTES_PER_SECOND:
            raise error(f"no whole answer within {seconds:g} s, and what comes of it comes too slowly")
    return bytes(body)
