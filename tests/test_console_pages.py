"""The pages that people look at all day, in a real browser, as each role, wide and on a phone; and what an operator does on them."""

import shutil
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect
from rich.console import Console as Terminal
from sqlalchemy import select

from gateway.auditing import audit, events
from gateway.auditing.audit import Act
from gateway.commands.screen import Screen
from gateway.rows.tables import Delivery, OutputInstance, Series, Study, Version
from gateway.views.stories import show_job
from tests.console_fixture import ROLES, ConsolePlace, a_console, assert_accessible, assert_fits, shot
from tests.pictured_fixture import HOSTILE, a_pictured_job
from tests.rows_fixture import SERIES, STUDY, a_delivery, a_job, a_series

NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def world(console: ConsolePlace) -> ConsolePlace:
    """A result that was drawn, a job that failed, a delivery that is held, a series that is still coming."""
    console.job, source = a_pictured_job(console.db, console.site.store, now=NOW)  # type: ignore[attr-defined]
    console.series = source[0].SeriesInstanceUID  # type: ignore[attr-defined]
    a_series(console.db)
    console.failed = a_job(console.db, state="failed", code="GEOMETRY", reason="expected evenly spaced slices", ended_at=NOW)  # type: ignore[attr-defined]
    console.held = a_delivery(console.db, console.failed, state="held", reason="the peer has the study under another patient")  # type: ignore[attr-defined]
    with console.db.begin() as session:
        series = session.get(Series, SERIES)
        series.state, series.last_received_at = "receiving", NOW
        session.add(Version(sop_instance_uid="2.25.77", sha256="9" * 64, series_instance_uid=SERIES, size=1, received_at=NOW, reason="other bytes came under this UID"))  # fmt: skip
    return console


def paths(world: ConsolePlace) -> dict[str, str]:
    with world.db() as session:
        delivery = session.scalars(select(Delivery).where(Delivery.job == world.job)).first()
        study = session.get(Series, world.series).study_instance_uid
    return {
        "overview": "/", "studies": "/studies", "study": f"/studies/{study}", "series": "/series", "one-series": f"/series/{world.series}",
        "one-series-receiving": f"/series/{SERIES}", "jobs": "/jobs", "job": f"/jobs/{world.job}", "job-failed": f"/jobs/{world.failed}",
        "deliveries": "/deliveries", "delivery": f"/deliveries/{world.held}", "picture": f"/jobs/{world.job}/picture",
        "picture-of-series": f"/series/{world.series}/picture", "models": "/models", "audit": "/audit",
        "provenance-of-a-result": f"/audit/instances/{delivery.sop_instance_uid}", "verification": "/audit/verification",
    }  # fmt: skip


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("role", ROLES)
def test_every_page_is_shown_to_each_role_and_fits(world: ConsolePlace, chromium: Browser, role: str, width: int) -> None:
    with world.visit(chromium, role, width=width) as page:
        for name, path in paths(world).items():
            answer = page.goto(world.url + path)
            assert answer.status == 200, name
            expect(page.get_by_role("heading", level=1)).to_be_visible()
            assert_fits(page)
            if role == "operator":  # a viewer sees less, and what an administrator sees is looked at in test_console_every
                assert_accessible(page)
            if role == "operator":
                shot(page, f"{name}-{width}")
            assert (page.locator("main details.act, main form.act").count() > 0) <= (role != "viewer"), name


def test_what_scanners_wrote_is_shown_as_it_is_and_never_run(world: ConsolePlace, chromium: Browser) -> None:
    shown = HOSTILE.replace("^", " ")
    with world.visit(chromium, "viewer") as page:
        for path in ("/studies", "/series", "/jobs", "/deliveries", f"/series/{world.series}"):
            page.goto(world.url + path)
            expect(page.get_by_text(shown).first).to_be_visible()
            assert page.locator("main img[src=x]").count() == 0


def test_long_names_fit_a_phone_and_a_number_stays_behind_a_name_from_right_to_left(
    tmp_path: Path, migrated_sqlite: Path, chromium: Browser
) -> None:
    shutil.copy(migrated_sqlite, tmp_path / "gateway.db")
    peer = "archive-of-the-department-of-radiology-for-research-in-the-basement"
    peers = [{"name": peer, "protocol": "folder", "path": str(tmp_path / "pacs")}]
    with a_console(tmp_path, f"sqlite:///{tmp_path / 'gateway.db'}", peers=peers) as place:
        place.add_people()
        a_series(place.db)
        job = a_job(place.db, state="done", pipeline="bright")
        delivery = a_delivery(place.db, job, peer=peer, state="failed")
        with place.db.begin() as session:
            study = session.get(Study, STUDY)
            study.patient_name, study.patient_id = "כהן^דוד", "1234567"
        with place.visit(chromium, "operator", width=390) as page:
            for path in ("/studies", "/series", "/deliveries", f"/jobs/{job}", f"/deliveries/{delivery}"):
                page.goto(place.url + path)
                assert_fits(page)
        with place.visit(chromium, "operator") as page:
            page.goto(place.url + "/jobs")
            name, number = (page.locator(f"#rows bdi.{one}").bounding_box() for one in ("patient", "hint"))
    assert name["x"] + name["width"] <= number["x"]


def test_hundreds_of_results_of_which_the_same_became_are_told_as_one(tmp_path: Path, migrated_sqlite: Path) -> None:
    shutil.copy(migrated_sqlite, tmp_path / "gateway.db")
    with a_console(tmp_path, f"sqlite:///{tmp_path / 'gateway.db'}") as place:
        place.add_people()
        a_series(place.db)
        job = a_job(place.db, state="done")
        with place.db.begin() as session:
            for n in range(300):
                session.add(OutputInstance(sop_instance_uid=f"2.25.{n}", job=job, study_instance_uid=STUDY, series_instance_uid="2.25.9", sop_class_uid="1.2", modality="CT", sha256="8" * 64, size=500_000, created_at=NOW))  # fmt: skip
        for n in range(300):
            fate = {"state": "failed", "reason": "full"} if n == 7 else {"state": "proved", "proof": "query", "sent_at": NOW}
            a_delivery(place.db, job, sop_instance_uid=f"2.25.{n}", **fate)
        with place.db.begin() as session:
            audit.record(session, Act.JOB_DONE, at=NOW, job=job, outputs=[f"2.25.{n}" for n in range(300)])
        pages = [place.client("viewer").get(path).text for path in (f"/jobs/{job}", f"/series/{SERIES}")]
        trail = place.client("viewer").get(f"/audit?job={job}&act=job.done").text
        told = StringIO()
        Screen(Terminal(file=told, width=400)).job_story(show_job(place.db, job))

    assert "and 288 more" in trail
    assert "2.25.299" not in trail
    for page in pages:
        assert "and 298 others like it" in page
        assert page.count("<tr>") < 12
    assert "pacs: 299 proved" in pages[0]
    assert "pacs: failed" in pages[0]
    assert "299 CT to pacs" in pages[1]
    assert "CT 2.25.0 and 298 others like it, 149.50 MB" in told.getvalue()
    assert len(told.getvalue().splitlines()) < 20


def test_a_patient_is_found_without_a_name_in_any_address(world: ConsolePlace, chromium: Browser) -> None:
    asked: list[str] = []
    with world.visit(chromium, "viewer") as page:
        page.on("request", lambda request: asked.append(request.url))
        page.goto(world.url + "/studies")
        page.get_by_label("Search").fill("canary")
        page.get_by_role("button", name="Show", exact=True).click()
        expect(page.locator("#rows")).to_contain_text("CANARY NAME")
        expect(page.locator("#rows")).not_to_contain_text("onerror")
        with world.db.begin() as session:  # what comes meanwhile is shown in the list that was sought, and nothing else
            for name in ("CANARY^LATER", "SOMEBODY^ELSE"):
                session.add(Study(study_instance_uid=f"2.25.{len(name)}", patient_name=name, patient_id="7", patient_birth_date="", accession_number="", first_received_at=NOW))  # fmt: skip
            audit.record(session, Act.SERIES_COMPLETE, at=NOW, series=SERIES)
        expect(page.locator("#rows")).to_contain_text("CANARY LATER")
        expect(page.locator("#rows")).not_to_contain_text("SOMEBODY")
        page.get_by_label("Search").fill("no such patient")
        page.get_by_role("button", name="Show", exact=True).click()
        expect(page.locator("#rows")).to_contain_text("Nothing fits.")
        assert_accessible(page)
        shot(page, "studies-nothing-fits")
    assert not [url for url in asked if "canary" in url.lower()]


def test_a_reader_comes_back_to_what_was_found_and_nobody_else_reads_it_in_the_address(
    world: ConsolePlace, chromium: Browser
) -> None:
    with world.visit(chromium, "viewer") as page:
        page.goto(world.url + "/studies")
        page.get_by_label("Search").fill("canary")
        page.get_by_role("button", name="Show", exact=True).click()
        page.locator("#rows").get_by_role("link", name="CANARY NAME").click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("CANARY NAME")

        page.go_back()

        expect(page.get_by_label("Search")).to_have_value("canary")
        expect(page.locator("#rows")).to_contain_text("CANARY NAME")
        expect(page.locator("#rows")).not_to_contain_text("onerror")
        address = page.url.removeprefix(world.url)
    other = world.client("viewer").get(address).text
    assert "onerror" in other
    assert "canary" not in other


def test_the_days_of_a_list_are_those_of_the_gateways_time_zone(tmp_path: Path, migrated_sqlite: Path) -> None:
    shutil.copy(migrated_sqlite, tmp_path / "gateway.db")
    zone = {"time_zone": "Asia/Tokyo"}
    with a_console(tmp_path, f"sqlite:///{tmp_path / 'gateway.db'}", gateway=zone) as place:
        place.add_people()
        with place.db.begin() as session:  # on the second of January in Tokyo
            at = datetime(2026, 1, 1, 16, tzinfo=UTC)
            session.add(Study(study_instance_uid="2.25.1", patient_name="EARLY^BIRD", patient_id="7", patient_birth_date="", accession_number="", first_received_at=at))  # fmt: skip
        viewer = place.client("viewer")

        second, first = (viewer.get(f"/studies?since={day}&until={day}").text for day in ("2026-01-02", "2026-01-01"))

    assert "EARLY BIRD" in second
    assert "EARLY BIRD" not in first
    assert "From (Asia/Tokyo)" in first


def test_why_a_rule_did_not_match_is_told_condition_by_condition(world: ConsolePlace, chromium: Browser) -> None:
    with world.visit(chromium, "viewer") as page:
        page.goto(f"{world.url}/series/{world.series}")
        rule = page.locator("details.rule", has_text="head CT")
        expect(rule.get_by_text("BodyPartExamined is HEAD")).to_be_visible()
        expect(rule.get_by_text("it is ['CHEST']")).to_be_visible()


def test_a_series_shows_what_happens_to_it_without_a_reload(world: ConsolePlace, chromium: Browser) -> None:
    with world.visit(chromium, "operator") as page:
        page.goto(f"{world.url}/series/{SERIES}")
        expect(page.get_by_role("heading", level=1)).to_contain_text("receiving")
        page.evaluate("window.wasHere = true")
        page.get_by_role("button", name="Hold it").click()
        expect(page.get_by_role("status")).to_contain_text("is held")
        expect(page.get_by_role("heading", level=1)).to_contain_text("held")
        page.evaluate("window.wasHere = true")
        page.locator("summary", has_text="Take it as complete").click()
        expect(page.get_by_text("Rules are asked at once")).to_be_visible()
        page.get_by_role("button", name="Take it as complete").click()
        expect(page.get_by_role("status")).to_contain_text("taken as it is")


def test_the_slider_goes_through_the_planes_with_the_keyboard_and_shows_the_segments(
    world: ConsolePlace, chromium: Browser
) -> None:
    with world.visit(chromium, "viewer") as page:
        page.goto(f"{world.url}/jobs/{world.job}/picture")
        slider = page.get_by_role("slider", name="Plane")
        before = page.locator(".under").get_attribute("src")
        slider.focus()
        page.keyboard.press("Home")
        expect(page.locator("figcaption output")).to_have_text("1")
        page.keyboard.press("ArrowRight")
        expect(page.locator("figcaption output")).to_have_text("2")
        expect(page.locator(".under")).to_have_attribute("src", f"/jobs/{world.job}/planes/1.png")
        assert before != page.locator(".under").get_attribute("src")
        page.get_by_label("Window").select_option("lung")
        expect(page.locator(".under")).to_have_attribute("src", f"/jobs/{world.job}/planes/1.png?window=lung")
        page.get_by_label("Segments").uncheck()
        expect(page.locator(".over")).to_be_hidden()
        expect(page.get_by_role("table")).to_contain_text("Left lung")
        assert page.evaluate("document.querySelector('.under').naturalWidth") == 64
        shot(page, "picture-slid")


def test_a_picture_is_kept_by_the_browser_of_who_is_signed_in_and_shown_to_nobody_else(world: ConsolePlace) -> None:
    path = f"/jobs/{world.job}/planes/0.png"

    answer = world.client("viewer").get(path)

    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    assert answer.headers["cache-control"] == "private, max-age=86400, immutable"
    assert world.client().get(path, follow_redirects=False).status_code == 303
    assert world.client("viewer").get(f"/jobs/{world.job}/planes/4711.png").status_code == 404
    assert world.client("viewer").get(f"/series/{world.series}/planes/3/0.png").status_code == 409


def test_an_operator_retries_a_job_and_cancels_a_delivery_and_a_viewer_may_not(world: ConsolePlace, chromium: Browser) -> None:
    assert world.client("viewer").act(f"/jobs/{world.failed}/retry").status_code == 403
    assert world.client("viewer").act(f"/deliveries/{world.held}/cancel").status_code == 403
    with world.visit(chromium, "operator") as page:
        page.goto(f"{world.url}/jobs/{world.failed}")
        page.get_by_role("button", name="Retry").click()
        expect(page.get_by_role("status")).to_have_text(f"Job {world.failed} is queued again.")
        expect(page.get_by_role("heading", level=1)).to_contain_text("queued")
        page.goto(f"{world.url}/deliveries/{world.held}")
        page.locator("summary", has_text="Cancel").click()
        page.get_by_role("button", name="Cancel").click()
        expect(page.get_by_role("status")).to_have_text(f"Delivery {world.held} is cancelled.")
        page.get_by_role("button", name="Retry").click()
        expect(page.get_by_role("status")).to_have_text(f"Delivery {world.held} is queued again.")
    assert {event.actor for event in events.latest(world.db, job=world.failed) if "cancel" in event.act} == {"operator"}


def test_an_operator_sends_a_result_again_and_takes_it_back(world: ConsolePlace, chromium: Browser) -> None:
    with world.visit(chromium, "operator") as page:
        page.goto(f"{world.url}/jobs/{world.job}")
        page.locator("summary", has_text="Send again").click()
        page.get_by_role("button", name="Send again").click()
        expect(page.get_by_role("status")).to_contain_text("is queued again")
        page.locator("summary", has_text="Retract").click()
        expect(page.get_by_text("This cannot be undone.")).to_be_visible()
        page.get_by_label("Why").select_option("quality")
        page.get_by_role("button", name="Retract").click()
        expect(page.get_by_role("status")).to_contain_text("is retracted")

        # nobody who looks at it may overlook that, and there is nothing left to send or to take back
        expect(page.locator("td[data-label='Result'] .badge", has_text="retracted")).to_have_count(2)
        expect(page.locator("summary", has_text="Send again")).to_have_count(0)
        expect(page.locator("summary", has_text="Retract")).to_have_count(0)
        shot(page, "job-retracted")
        for path in (f"/jobs/{world.job}", f"/jobs/{world.job}/picture", f"/series/{world.series}"):
            page.goto(world.url + path)
            expect(page.get_by_text("Its results were retracted: they are not to be used.")).to_be_visible()
            assert_accessible(page)
        for path in ("/jobs", "/series", "/studies"):
            page.goto(world.url + path)
            expect(page.locator("#rows .badge", has_text="retracted")).to_have_count(1)
        page.goto(f"{world.url}/jobs/{world.job}")
        page.get_by_role("link", name="Who did it, and why").click()
        expect(page.locator("#rows")).to_contain_text("reason quality")


def test_the_trail_is_looked_through_and_verified(world: ConsolePlace, chromium: Browser) -> None:
    with world.visit(chromium, "operator") as page:
        page.goto(world.url + "/audit")
        page.get_by_label("UID", exact=True).fill(f" {world.series} ")  # as it was copied from somewhere
        page.get_by_role("button", name="Show", exact=True).click()
        expect(page.locator("#rows")).to_contain_text("series.complete")
        page.get_by_label("SOP Instance UID").fill(" 2.25.77 ")
        page.get_by_role("button", name="Tell").click()
        expect(page).to_have_url(world.url + "/audit/instances/2.25.77")
        page.goto(world.url + "/audit/verification")
        page.get_by_role("button", name="Verify now").click()
        expect(page.get_by_text("the chain is whole")).to_be_visible()
        shot(page, "verification-done")


def test_what_is_not_told_of_many_is_counted(world: ConsolePlace) -> None:
    for number in range(7):
        a_delivery(world.db, world.failed, peer=f"archive {number}", state="failed")
    operator = world.client("operator")

    operator.act(f"/jobs/{world.failed}/resend")

    told = operator.get(f"/jobs/{world.failed}").text.partition('role="status"')[2].partition("</div>")[0]
    assert told.count("<p>") == 6
    assert "And 3 more." in told


EMPTY = (
    ("overview", "/", "Nothing. Everything goes by itself."),
    ("studies", "/studies", "Nothing has come yet."),
    ("series", "/series", "Nothing has come yet."),
    ("jobs", "/jobs", "No job was made yet."),
    ("deliveries", "/deliveries", "Nothing was sent yet."),
)


def test_an_empty_gateway_says_what_to_do_next(tmp_path: Path, migrated_sqlite: Path, chromium: Browser) -> None:
    shutil.copy(migrated_sqlite, tmp_path / "gateway.db")
    with a_console(tmp_path, f"sqlite:///{tmp_path / 'gateway.db'}") as place:
        place.add_people()
        with place.visit(chromium, "operator", width=390) as page:
            for name, path, said in EMPTY:
                page.goto(place.url + path)
                expect(page.get_by_text(said).first).to_be_visible()
                shot(page, f"empty-{name}")
