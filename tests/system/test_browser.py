"""What a person sees: the report as a file in a browser, and MLflow's pages as `dinov2lab ui` serves them."""

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import fabricated
import pytest

from dinov2lab.lab import tracking
from dinov2lab.report.render import write_report
from dinov2lab.spec.study import Decide, Study, expand
from dinov2lab.store.folders import Workspace

pytestmark = pytest.mark.system
PATIENCE = 60  # seconds, for pages that are drawn by scripts
CURVE = "return document.querySelector('.js-plotly-plot .scatterlayer path.js-line')?.getTotalLength() ?? 0"
SERVE = """
import sys
from pathlib import Path
from dinov2lab.lab import tracking
from dinov2lab.store.folders import Workspace
sys.exit(tracking.ui(Workspace(Path(sys.argv[1])), int(sys.argv[2])))
"""


class Shown(NamedTuple):
    study: Study
    workspace: Workspace
    report: Path


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    """A study of two arms and three seeds, of which one run has failed, with its report, mirrored."""
    folder = tmp_path_factory.mktemp("shown")
    workspace, decide = Workspace(folder / "lab"), Decide(metric="test/knn", looks=1)
    study = fabricated.study(seeds=3).model_copy(update={"decide": decide})
    *most, last = expand(study)
    for cell in (*most, last):
        fabricated.start(workspace, cell)
    for cell in most:
        fabricated.finish(workspace, cell)
    fabricated.fail(workspace, last, "the loss is NaN at step 70 <b>of</b> 400")
    fabricated.remember(workspace, study)
    report = folder / "reports" / study.name
    write_report(study, workspace, report)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        tracking.sync(None, workspace, report.parent)
    return Shown(study, workspace, report)


@pytest.fixture(scope="module")
def address(shown: Shown) -> Iterator[str]:
    """Of the study's runs, served by a process of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    server = subprocess.Popen([sys.executable, "-c", SERVE, str(shown.workspace.path), str(port)], env=environment)
    until(lambda: healthy(port), 180)
    yield tracking.pages(shown.workspace, port)[shown.study.name]
    server.terminate()
    assert server.wait(30) == 0


def healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def until(true: Callable[[], object], seconds: float = PATIENCE) -> Any:
    """What `true` returns once it is something."""
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < deadline, f"not so after {seconds} s"
        time.sleep(0.2)
    return found


def visit(browser: Any, address: str) -> None:
    """Open a page, forgetting what was recorded before."""
    browser.get("about:blank")
    browser.get_log("performance")
    browser.get_log("browser")
    browser.get(address)


def requested(browser: Any) -> set[str]:
    """The addresses that the page asked for, inlined data aside."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [event for event in events if event["method"] == "Network.requestWillBeSent"]
    return {event["params"]["request"]["url"] for event in sent} - {""}


def text(browser: Any) -> str:
    """What is to be read on the page, with one blank wherever there is any."""
    return " ".join(browser.execute_script("return document.body.innerText").split())


def shows(browser: Any, *words: str) -> None:
    """Wait for all of `words` on the page."""
    try:
        until(lambda: all(word in text(browser) for word in words))
    except AssertionError:
        missing = [word for word in words if word not in text(browser)]
        raise AssertionError(f"{missing} not on the page {browser.current_url}:\n{text(browser)}") from None


def unfold(browser: Any, names: list[str]) -> None:
    """Open the row of the study in the table of runs, which remembers whether it was open."""
    until(lambda: browser.find_elements("css selector", "[role=gridcell] button"))
    if not browser.find_elements("link text", names[0]):
        browser.find_element("css selector", "[role=gridcell] button").click()
    until(lambda: all(browser.find_elements("link text", name) for name in names))


def keep_picture(browser: Any, folder: Path | None, name: str) -> None:
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        browser.save_screenshot(str(folder / f"{name}.png"))


def test_the_report_answers_its_question(browser: Any, shown: Shown, pictures: Path | None) -> None:
    index = (shown.report / "index.html").as_uri()
    visit(browser, index)
    keep_picture(browser, pictures, "report")
    (heading,) = browser.find_elements("tag name", "h1")
    assert heading.text.replace("\n", " ") == shown.study.question
    (decided,) = [row for row in json.loads((shown.report / "verdict.json").read_text()) if row["metric"] == "test/knn"]
    assert decided["claim"] == "better"
    assert decided["words"] in text(browser)
    tables = [table.text for table in browser.find_elements("tag name", "table")]
    arms = next(table for table in tables if "uncurated" in table)
    assert "retrieved" in arms
    assert "raw pixels" in arms
    assert "untrained" in arms
    assert "the loss is NaN at step 70 <b>of</b> 400" in text(browser), "a failed run is shown with its reason, escaped"
    figures = browser.find_elements("tag name", "svg")
    assert any(figure.size["width"] > 100 and figure.size["height"] > 50 for figure in figures)


def test_tables_sort_by_a_click_on_their_heads(browser: Any, shown: Shown) -> None:
    visit(browser, (shown.report / "index.html").as_uri())
    table = browser.find_element("css selector", "#arms table")

    def column() -> list[str]:
        return [cell.text for cell in table.find_elements("css selector", "tbody:not(.reference) td:nth-child(2) b")]

    before, head = column(), table.find_elements("css selector", "thead button")[1]
    assert len(set(before)) == len(before) == 2
    for order, rows in (
        ("descending", sorted(before, key=float, reverse=True)),
        ("ascending", sorted(before, key=float)),
        (None, before),
    ):
        head.click()
        assert column() == rows
        assert table.find_elements("css selector", "thead th")[1].get_attribute("aria-sort") == order
    assert table.find_elements("css selector", "tbody")[-1].get_attribute("class") == "reference", (
        "references stay below"
    )


def test_figures_have_words_for_those_who_do_not_see_them(browser: Any, shown: Shown) -> None:
    visit(browser, (shown.report / "index.html").as_uri())
    told = [figure.get_attribute("aria-label") for figure in browser.find_elements("css selector", "svg[role=img]")]
    assert len(told) == len(browser.find_elements("tag name", "svg")) > 3
    assert all(len(words) > 40 for words in told)
    assert all(picture.get_attribute("alt") for picture in browser.find_elements("tag name", "img"))


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
def test_question_answer_and_effect_are_on_the_first_screen(
    browser: Any, shown: Shown, width: int, height: int
) -> None:
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        visit(browser, (shown.report / "index.html").as_uri())
        (decided,) = [
            row for row in json.loads((shown.report / "verdict.json").read_text()) if row["metric"] == "test/knn"
        ]
        bottom = "return arguments[0].getBoundingClientRect().bottom"
        answer = browser.find_element("css selector", "#verdict")
        assert decided["words"] in " ".join(answer.text.split())
        for part in ("h1", "#verdict"):
            assert browser.execute_script(bottom, browser.find_element("css selector", part)) < height
        low, high = (f"{100 * decided[end]:+.1f}".replace("-", "−") for end in ("low", "high"))
        assert f"by {100 * decided['difference']:.1f} points (95 % interval {low} to {high})" in answer.text.replace(
            "\u00a0", " "
        )
        forest = browser.find_element("css selector", ".forest svg")
        assert browser.execute_script(bottom, forest) < height
        too_wide = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert browser.execute_script(too_wide) == 0
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_report_needs_nothing_but_its_file(browser: Any, shown: Shown) -> None:
    index = (shown.report / "index.html").as_uri()
    visit(browser, index)
    assert browser.get_log("browser") == []
    assert {address for address in requested(browser) if not address.startswith("data:")} == {index}
    too_wide = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert browser.execute_script(too_wide) == 0


def test_a_printed_page_is_light_and_keeps_the_colours_that_tell_arms_apart(browser: Any, shown: Shown) -> None:
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        visit(browser, (shown.report / "index.html").as_uri())
        bar = "const bar = document.querySelector('section').appendChild(document.createElement('span')); "
        bar += "bar.className = 'bar'; bar.style.width = '50%'; const style = getComputedStyle(bar); "
        printed = browser.execute_script(f"{bar}return [style.display, style.printColorAdjust, bar.offsetWidth > 100]")
        assert printed == ["block", "exact", True], "the bars of a funnel"
        adjust = "return getComputedStyle(document.querySelector('.swatch')).printColorAdjust"
        assert browser.execute_script(adjust) == "exact"
        assert browser.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_mlflow_shows_the_study_and_its_runs(browser: Any, shown: Shown, address: str, pictures: Path | None) -> None:
    visit(browser, address)
    shows(browser, shown.study.question, "7 matching runs")
    names = [f"{cell.arm} · seed {cell.seed}" for cell in expand(shown.study)]
    unfold(browser, names)
    keep_picture(browser, pictures, "runs")

    (study,) = [one for one in browser.find_elements("css selector", "[role=gridcell] a") if one.text == "curation"]
    study.click()
    shows(browser, "better than uncurated", "verdict/test/knn/retrieved/difference", *names)
    keep_picture(browser, pictures, "study")
    visit(browser, f"{browser.current_url}/artifacts/report/index.html")
    until(lambda: browser.find_elements("tag name", "iframe"))
    browser.switch_to.frame(browser.find_element("tag name", "iframe"))
    shows(browser, shown.study.question)
    browser.switch_to.default_content()
    keep_picture(browser, pictures, "artifact")


def test_mlflow_draws_the_curves_of_a_run(browser: Any, shown: Shown, address: str, pictures: Path | None) -> None:
    visit(browser, address)
    unfold(browser, ["retrieved · seed 1"])
    browser.find_element("link text", "retrieved · seed 1").click()
    shows(browser, "retrieved · seed 1", "final/test/knn", "optim.lr")
    keep_picture(browser, pictures, "run")
    visit(browser, f"{browser.current_url}/model-metrics")
    search = until(lambda: browser.find_elements("css selector", "input[placeholder='Search metric charts']"))
    search[0].send_keys("loss/total")
    until(lambda: browser.execute_script(CURVE) > 100)
    shows(browser, "20k")
    keep_picture(browser, pictures, "curve")
    elsewhere = [one for one in requested(browser) if one.startswith("http") and "//127.0.0.1:" not in one]
    assert elsewhere == []
    severe = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert all("users/current" in message for message in severe), "a server without accounts answers 404 to that one"


def test_mlflow_shows_what_the_machine_was_at(browser: Any, address: str, pictures: Path | None) -> None:
    visit(browser, address)
    unfold(browser, ["retrieved · seed 1"])
    browser.find_element("link text", "retrieved · seed 1").click()
    shows(browser, "retrieved · seed 1", "System metrics")
    visit(browser, f"{browser.current_url}/system-metrics")
    shows(browser, "system/cpu_utilization_percentage", "system/process_memory_megabytes")
    until(lambda: browser.execute_script(CURVE) > 100)
    keep_picture(browser, pictures, "system")


def test_mlflow_compares_arms_along_what_the_study_varies(
    browser: Any, shown: Shown, address: str, pictures: Path | None
) -> None:
    """On MLflow's own page for comparing runs, parallel coordinates begin with what differs: names that all arms have."""
    experiment = re.findall(r"experiments/(\d+)", address)[0]
    ours = tracking._client(shown.workspace).search_runs([experiment], "tags.`dinov2lab.kind` = 'run'")
    runs, experiments = (quote(json.dumps(each)) for each in ([run.info.run_id for run in ours], [experiment]))
    visit(browser, f"{address.partition('#')[0]}#/compare-runs?runs={runs}&experiments={experiments}")
    shows(browser, "Parallel Coordinates Plot", "varied.curation", f"Comparing {len(ours)} Runs")
    until(lambda: browser.find_elements("css selector", ".js-plotly-plot .parcoords .y-axis"))
    axes = [axis.text for axis in browser.find_elements("css selector", ".js-plotly-plot .parcoords .axis-title")]
    keep_picture(browser, pictures, "compare")
    assert "arm" in axes, axes
