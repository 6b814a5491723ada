"""Every page there is, as an administrator, who sees most: light on a wide screen and dark on a phone; and the canary's page."""

import re
from datetime import UTC, datetime
from io import BytesIO

import pytest
from playwright.sync_api import Browser, expect
from pydicom import dcmread
from sqlalchemy import select

from gateway.access import people
from gateway.acts import rulebook
from gateway.dicom.uids import derived_uid
from gateway.rows.ruleset import Shadow
from gateway.rows.tables import Job, OutputInstance, Series
from gateway.web.found import parts
from tests.console_fixture import ROLES, ConsolePlace, assert_accessible, assert_fits, shot
from tests.pictured_fixture import a_pictured_job
from tests.rows_fixture import a_delivery, a_job, a_series
from tests.synthetic import part10

NOW = datetime.now(UTC)
RULES = """\
rules:
  - name: chest CT
    when: {all: [{attribute: Modality, is: CT}]}
    pipeline: bright
    canary: {pipeline: garbage, share: 10}
    send_to: [pacs]
"""
PARTS = re.compile(r"/(now|rows|found|replay)$|\.png$|^/(healthz|readyz|metrics|oidc/.*|audit/instance|setup|sign-in)$|^/viewer")
"""What is no page, is a part of one, leads to one, or has a test of its own (test_console, test_console_access, test_viewer)."""


@pytest.fixture(scope="module")
def world(console: ConsolePlace) -> ConsolePlace:
    """Rules with a canary, and a job of it beside the one of its rule: its segment lacks half of the planes."""
    job, source = a_pictured_job(console.db, console.site.store, now=NOW)
    a_series(console.db)
    delivery = a_delivery(console.db, a_job(console.db, state="failed", code="GEOMETRY", ended_at=NOW), state="held")
    rulebook.apply(
        console.db, RULES, note="", pipelines=console.site.plan.pipelines, peers=("pacs",), approval=False, actor="ann", now=NOW
    )
    with console.db.begin() as session:
        ours = session.get_one(Job, job)
        values = {
            column.name: getattr(ours, column.name) for column in Job.__table__.columns if column.name not in ("id", "input_key")
        }
        canary = Job(input_key="c" * 64, **{**values, "pipeline": "garbage"})
        session.add(canary)
        session.flush()
        session.add(Shadow(job=canary.id, beside=ours.pipeline, released_at=None))
        for output in session.scalars(select(OutputInstance).where(OutputInstance.job == job)).all():
            ds = dcmread(BytesIO(console.site.store.read(output.sha256)))
            ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = derived_uid("canary", output.sop_instance_uid)
            if ds.Modality == "SEG":
                ds.PixelData = ds.PixelData[: len(ds.PixelData) // 2] + bytes(len(ds.PixelData) - len(ds.PixelData) // 2)
            stored = console.site.store.put([part10(ds)])
            values = {column.name: getattr(output, column.name) for column in OutputInstance.__table__.columns}
            session.add(
                OutputInstance(**{**values, "sop_instance_uid": ds.SOPInstanceUID, "job": canary.id, "sha256": stored.sha256})
            )
        console.paths = {  # type: ignore[attr-defined]
            "/studies/{study_instance_uid}": f"/studies/{session.get_one(Series, source[0].SeriesInstanceUID).study_instance_uid}",
            "/series/{series_instance_uid}": f"/series/{source[0].SeriesInstanceUID}",
            "/series/{series_instance_uid}/picture": f"/series/{source[0].SeriesInstanceUID}/picture",
            "/jobs/{job}": f"/jobs/{job}", "/jobs/{job}/picture": f"/jobs/{job}/picture",
            "/deliveries/{delivery}": f"/deliveries/{delivery}",
            "/audit/instances/{sop_instance_uid}": f"/audit/instances/{output.sop_instance_uid}",
            "/rules/versions/{number}": "/rules/versions/1", "/rules/agreement": "/rules/agreement?rule=chest+CT",
            "/peer": "/peer?name=pacs", "/peer/new": "/peer/new?protocol=dimse", "/peer/edit": "/peer/edit?name=added",
        }  # fmt: skip
    console.client("administrator").act("/peer/new?protocol=folder", name="added", path=str(console.folder))
    people.add_person(console.db, "other", role="viewer", password="a long password indeed", actor="tests", now=NOW)
    return console


def every_path(world: ConsolePlace) -> list[str]:
    routes = [str(route.path) for part in parts("pages") for route in part.router.routes if "GET" in route.methods]  # type: ignore[attr-defined]
    return [world.paths.get(path, path) for path in routes if not PARTS.search(path)]


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_every_page_can_be_read_by_everybody(world: ConsolePlace, chromium: Browser, width: int, scheme: str) -> None:
    with world.visit(chromium, "administrator", width=width) as page:
        page.emulate_media(color_scheme=scheme)
        for path in every_path(world):
            answer = page.goto(world.url + path)
            assert answer.status == 200, path
            assert_fits(page)
            assert_accessible(page)
            shot(page, f"every{re.sub(r'[^a-z]+', '-', re.sub(r'[0-9.]{9,}', '', path))}-{scheme}")


@pytest.mark.parametrize("role", ROLES)
def test_a_canary_is_compared_with_the_pipeline_beside_it_by_who_may_ask(
    world: ConsolePlace, chromium: Browser, role: str
) -> None:
    with world.visit(chromium, role) as page:
        page.goto(world.url + "/rules")
        page.get_by_role("link", name="chest CT").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Agreement of chest CT")
        if role == "viewer":
            expect(page.get_by_role("button", name="Compare")).to_have_count(0)
            assert world.client(role).get("/rules/agreement/found?rule=x").status_code == 403
            return
        page.get_by_role("button", name="Compare").click()
        expect(page.locator("#found")).to_contain_text("1 series went through both")
        expect(page.locator("#found td[data-label='Dice, worst']").first).to_have_text(re.compile(r"0\.\d\d\d"))
        expect(page.locator("#found td[data-label='Difference, worst']").first).to_have_text("0.0 %")
        assert_accessible(page)
        shot(page, f"agreement-{role}")


def test_a_rule_without_a_canary_has_nothing_to_compare(world: ConsolePlace) -> None:
    assert "Nothing to compare yet" in world.client("operator").get("/rules/agreement/found?rule=other").text
