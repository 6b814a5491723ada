"""What 50 people cost who look at live pages: CPU of the server, while nothing happens and while something happens every second.

python -m tests.benchmarks.viewers [--viewers 50] [--seconds 20]
"""

import argparse
import multiprocessing
import re
import tempfile
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import httpx2

from gateway.app import upgrade
from gateway.auditing import audit
from gateway.auditing.audit import Act
from gateway.db import open_database
from tests.benchmarks.console import fill
from tests.benchmarks.report import Goal
from tests.console_fixture import a_console
from tests.pictured_fixture import a_pictured_job

GOAL_PERCENT = 10
_EVERY_SECONDS = 2
_SERIES = 2000


def look(url: str, cookies: Sequence[dict[str, str]], paths: Sequence[str], seconds: float, happens_in: str) -> None:
    """As a browser would: each viewer has a page, and asks for its live part every two seconds with the version that it shows.

    Every second something happens in the database `happens_in`, if any.
    """
    if happens_in:
        threading.Thread(target=_go_on, args=(happens_in,), daemon=True).start()
    clients = [httpx2.Client(base_url=url, cookies=one, timeout=30) for one in cookies]
    parts = []
    for number, client in enumerate(clients):
        text = client.get(paths[number % len(paths)]).text
        found = re.search(r'hx-get="([^"]+)"', text)
        assert found, text[:500]
        parts.append(found.group(1).replace("&amp;", "&"))
    end = time.monotonic() + seconds
    due = [time.monotonic() + _EVERY_SECONDS * number / len(clients) for number in range(len(clients))]
    while time.monotonic() < end:
        number = min(range(len(clients)), key=due.__getitem__)
        time.sleep(max(0.0, due[number] - time.monotonic()))
        due[number] += _EVERY_SECONDS
        answer = clients[number].get(parts[number])
        if answer.status_code == 200:
            found = re.search(r'hx-get="([^"]+)"', answer.text)
            assert found
            parts[number] = found.group(1).replace("&amp;", "&")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--viewers", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=20)
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="gateway-viewers-") as name:
        folder = Path(name)
        url = f"sqlite:///{folder / 'gateway.db'}"
        db = open_database(url)
        upgrade(url, db)
        fill(db, _SERIES)
        db.kw["bind"].dispose()
        with a_console(folder, url) as place:
            place.add_people()
            _, source = a_pictured_job(place.db, place.site.store, seed=987_654)
            paths = ("/", "/series", "/jobs", f"/series/{source[0].SeriesInstanceUID}")
            names = [("viewer", "operator", "administrator")[number % 3] for number in range(chosen.viewers)]
            cookies = [dict(place.client(one).cookies) for one in names]
            for what, busy in (("nothing happens", False), ("something happens every second", True)):
                percent = _cost(place, cookies, paths, chosen.seconds, busy=busy)
                print(Goal(f"{chosen.viewers} viewers, {what}: percent of a core", percent, GOAL_PERCENT, at_most=True))


def _go_on(database_url: str) -> None:
    db = open_database(database_url)
    while True:
        time.sleep(1)
        with db.begin() as session:
            audit.record(session, Act.INSTANCE_RECEIVED, at=datetime.now(UTC))


def _cost(place, cookies, paths, seconds: float, *, busy: bool) -> float:
    happens_in = str(place.db.kw["bind"].url) if busy else ""
    arguments = (place.url, cookies, paths, seconds + 8, happens_in)
    viewers = multiprocessing.get_context("spawn").Process(target=look, args=arguments)
    viewers.start()
    time.sleep(8)  # until every page has been loaded
    cpu, began = time.process_time(), time.monotonic()
    viewers.join()
    return 100 * (time.process_time() - cpu) / (time.monotonic() - began)


if __name__ == "__main__":
    main()
