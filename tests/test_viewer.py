"""The viewer beside the console: OHIF, as its makers build it, looking at what the gateway holds."""

from pathlib import Path

import pytest
from playwright.sync_api import Browser

from gateway.web import viewer
from tests.console_fixture import a_console, shot
from tests.held_fixture import hold, hold_result
from tests.results_fixture import encoding, headers, lung_outputs, lungs
from tests.synthetic import ct_series


@pytest.fixture
def installed() -> None:
    if not viewer.is_installed(viewer.default_folder()):
        pytest.skip("the viewer is not installed (gateway viewer install; it wants npm)")


def test_a_build_for_the_root_of_a_site_is_made_to_stand_under_ours(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text('<script src="/app.js"></script><script>window.PUBLIC_URL="/"</script>')
    (tmp_path / "app.bundle.1.js").write_text('__webpack_require__.p = "/";')
    (tmp_path / "app.bundle.css").write_text("src:url(/font.woff2)")
    (tmp_path / "init-service-worker.js").write_text("importScripts('elsewhere')")

    viewer._settle_in(tmp_path)

    assert (
        tmp_path / "index.html"
    ).read_text() == '<script src="/viewer/app.js"></script><script>window.PUBLIC_URL="/viewer/"</script>'
    assert (tmp_path / "app.bundle.1.js").read_text() == '__webpack_require__.p = "/viewer/";'
    assert (tmp_path / "app.bundle.css").read_text() == "src:url(/viewer/font.woff2)"
    assert "importScripts" not in (tmp_path / "init-service-worker.js").read_text()
    assert viewer.is_installed(tmp_path)


def test_without_it_the_page_says_how_to_get_it(tmp_path: Path, migrated_sqlite: Path) -> None:
    with a_console(tmp_path, f"sqlite:///{tmp_path / 'gateway.db'}", web={"viewer": str(tmp_path / "nowhere")}) as place:
        place.add_people()

        answer = place.client("viewer").get("/viewer/")

    assert answer.status_code == 404
    assert "gateway viewer install" in answer.text


def test_its_files_are_for_who_is_signed_in_and_for_nobody_else(console, installed) -> None:
    nobody, person = console.client(), console.client("viewer")

    assert nobody.get("/viewer/app-config.js").status_code == 303
    assert '"qidoRoot": "/dicom-web"' in person.get("/viewer/app-config.js").text
    assert person.get("/viewer/%2e%2e/pyvenv.cfg").status_code == 404
    assert person.get("/viewer/..%2f..%2fetc/passwd").status_code in (
        200,
        404,
    )  # a name without a suffix is the viewer's own page
    assert "root:" not in person.get("/viewer/..%2f..%2f..%2f..%2fetc%2fpasswd").text
    assert person.get("/viewer/missing.js").status_code == 404


def test_a_segmentation_of_ours_is_shown_over_its_images(console, chromium: Browser, installed) -> None:
    series = ct_series(6, seed=3)
    source = headers(series)
    segmentation, _ = lung_outputs(source, lungs(source))
    made = encoding(source, [segmentation]).dataset(segmentation)
    hold(console.db, console.site.store, series)
    hold_result(console.db, console.site.store, made, of=series[0].SeriesInstanceUID)

    with console.visit(chromium, "viewer") as page:
        page.set_default_timeout(90_000)
        answers: list[tuple[int, str]] = []
        page.on("response", lambda response: answers.append((response.status, response.url)))
        page.goto(console.url + viewer.address(series[0].StudyInstanceUID))
        page.get_by_text(made.SeriesDescription).first.dblclick()
        page.get_by_text("Left lung").first.wait_for()
        shot(page, "viewer")

        assert page.get_by_text("Right lung").count() >= 1
        assert [one for one in answers if one[0] >= 400] == []
