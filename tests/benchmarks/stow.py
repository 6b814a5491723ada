"""A STOW-RS client that costs next to nothing (PS3.18 10.5): requests are made before the clock starts, connections are kept.

    python -m tests.benchmarks.stow URL RUN INSTANCES_A_REQUEST CONNECTIONS FOLDER...

It says "ready", waits for a line, and answers with one line of JSON, as scu.py does.
"""

import http.client
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from urllib.parse import urlsplit

from tests.benchmarks.scu import Outcome
from tests.benchmarks.studies import marked

_BOUNDARY = "0f3cf5c070e041efbaefc6f9f65ec3e1"
_HEADERS = {
    "Content-Type": f'multipart/related; type="application/dicom"; boundary={_BOUNDARY}',
    "Accept": "application/dicom+json",
}


def body(files: list[bytes]) -> bytes:
    """multipart/related (RFC 2387), a part for each PS3.10 file."""
    start = f"--{_BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    return b"".join(chain(*((start, file, b"\r\n") for file in files), [f"--{_BOUNDARY}--\r\n".encode()]))


def send(url: str, requests: list[tuple[int, bytes]]) -> Outcome:
    """`requests` are the number of instances and the body; all are sent over one connection."""
    outcome, place = Outcome(), urlsplit(url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=60)
    try:
        for count, content in requests:
            began = time.perf_counter()
            connection.request("POST", place.path, content, _HEADERS)
            answer = connection.getresponse()
            text = answer.read()
            outcome.seconds.append(time.perf_counter() - began)
            stored = _stored(text) if answer.status in {200, 202} else 0
            outcome.acknowledged += stored
            outcome.bytes += len(content) * stored // count
            if stored < count:
                outcome.errors.append(f"HTTP {answer.status}: {stored} of {count}")
    except (OSError, http.client.HTTPException) as error:
        outcome.errors.append(f"{type(error).__name__}: {error}")
    connection.close()
    return outcome


def main() -> None:
    url, folders = sys.argv[1], sys.argv[5:]
    run, batch, connections = map(int, sys.argv[2:5])
    files = [marked(file.read_bytes(), run) for folder in folders for file in sorted(Path(folder).iterdir())]
    batches = [files[at : at + batch] for at in range(0, len(files), batch)]
    requests = [(len(one), body(one)) for one in batches]
    del files, batches
    print("ready", flush=True)
    sys.stdin.readline()
    with ThreadPoolExecutor(connections) as pool:
        began = time.monotonic()
        outcomes = list(pool.map(lambda n: send(url, requests[n::connections]), range(connections)))
        ended = time.monotonic()
    print(json.dumps({"began": began, "ended": ended, "outcomes": [vars(outcome) for outcome in outcomes]}))


def _stored(text: bytes) -> int:
    """Entries of the Referenced SOP Sequence (PS3.18 10.5.3.1)."""
    return len(json.loads(text).get("00081199", {}).get("Value", []))


if __name__ == "__main__":
    main()
