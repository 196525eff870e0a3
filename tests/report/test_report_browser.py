"""The report in a real browser, opened from disk: what a reader sees, hears and does."""

import importlib.util
import json
import math
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from particles.cli import main

from particles.report.page import report
from particles.run.reader import Run

pytestmark = pytest.mark.slow

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
if importlib.util.find_spec("playwright") is None:
    pytest.skip("needs the Python package playwright: pip install -e '.[test]'", allow_module_level=True)
if CHROMIUM is None:
    pytest.skip("needs Chromium (apt-get install chromium), or its path in CHROMIUM", allow_module_level=True)

ARGUMENTS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
TINY = ["-n", "40", "--target-size", "60", "--steps", "20", "--log-every", "2", "--network", "8,8", "--no-figure", "-q"]
HOSTILE = "</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Runs, and a page for each, and one for two runs of different lengths."""
    folder = tmp_path_factory.mktemp("pages")
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(60, 2)), columns=[HOSTILE, "<!--"])
    frame.assign(kind=[HOSTILE, "other"] * 30).to_csv(folder / "hostile.csv", index=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "particles.report.pictures.embedded",
            lambda figure: "data:image/gif;base64,R0lGODlhAQABAIAAAP///wAAACH5BAEAAAAALAAAAAABAAEAAAICRAEAOw==",
        )
        for name, words in {
            "plane": ["--target", "moons"],
            "short": ["--target", "moons", "--flow", "w2", "--steps", "10"],
            "space": ["--target", "swiss-roll"],
            "digits": ["--target", "digits", "--label", "target"],
            "hostile": ["--target", str(folder / "hostile.csv"), "--label", "kind"],
        }.items():  # fmt: skip
            found = CliRunner().invoke(main, ["simulate", *TINY, *words, "-o", str(folder / name)])
            assert found.exit_code == 0, found.output
            report(folder / name, folder / f"{name}.html")
        report([folder / "plane", folder / "short"], folder / "several.html")
    report(folder / "plane", folder / "painted.html")
    return folder


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import Error, sync_playwright

    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        except Error as error:
            pytest.skip(f"{CHROMIUM} does not start here: {str(error).splitlines()[0]}")
        yield browser
        browser.close()


class Reader:
    """A page that is open, and everything that it asked for or complained of."""

    def __init__(self, browser, path, **look):
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **look})
        self.page = self.context.new_page()
        self.requests, self.complaints = [], []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        self.page.goto(path.as_uri())

    def state(self, player=None):
        found = self.page.evaluate("particlesReport.state()")
        return found if player is None else found["players"][player]

    def until(self, condition):
        """Waits for what a function says of the state, at most ten seconds."""
        for _ in range(500):
            if condition(self.state()):
                return
            self.page.wait_for_timeout(20)
        raise AssertionError(f"it does not come about: {self.state()}")

    def slide(self, value):
        self.page.locator("#time").fill(str(value))

    def pixels(self, player=0):
        return self.page.locator(".cloud").nth(player).evaluate("canvas => canvas.toDataURL()")

    def point(self, row, player=0, click=False):
        """Moves the mouse to a particle."""
        canvas = self.page.locator(".cloud").nth(player)
        canvas.scroll_into_view_if_needed()
        box, (x, y) = canvas.bounding_box(), self.state(player)["places"][row]
        self.page.mouse.move(box["x"] + x, box["y"] + y)
        if click:
            self.page.mouse.click(box["x"] + x, box["y"] + y)

    def readout(self, player=0):
        return self.page.locator(".readout").nth(player).inner_text()


@pytest.fixture
def read(browser, folder):
    """Opens a page; at the end it must have asked for nothing but itself, and complained of nothing."""
    open_pages = []

    def read(name, **look):
        open_pages.append(Reader(browser, folder / f"{name}.html", **look))
        return open_pages[-1]

    yield read
    for reader in open_pages:
        assert all(url.startswith(("file://", "data:")) for url in reader.requests)
        assert sum(url.startswith("file://") for url in reader.requests) == 1
        assert reader.complaints == []
        reader.context.close()


def test_slider_moves_the_particles_to_where_the_run_has_them(read, folder):
    page, run = read("plane"), Run.open(folder / "plane")
    seen = set()
    for frame in (0, 4, 10):
        page.slide(frame)
        state = page.state(0)
        assert (state["step"], state["time"]) == (run.steps[frame], run.times[frame])
        assert np.allclose(state["positions"], run.snapshot(frame), atol=1e-3)
        seen.add(page.pixels())
    assert len(seen) == 3
    assert page.page.locator("#now").inner_text() == "step 20 of 20, time 10"
    assert page.page.locator("#time").get_attribute("aria-valuetext") == "step 20 of 20, time 10"


def test_particles_are_drawn_where_they_are(read):
    page = read("plane", device_scale_factor=2)
    page.page.locator("#target").uncheck()
    state = page.state(0)
    colours = page.page.locator(".cloud").evaluate(
        """(canvas, places) => {
          const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
          const at = ([x, y]) => 4 * (Math.round(2 * y) * canvas.width + Math.round(2 * x));
          return places.map((place) => [...data.slice(at(place), at(place) + 4)]);
        }""",
        state["places"],
    )
    vermillion = [red > 180 and 60 < green < 150 and blue < 90 for red, green, blue, _ in colours]
    assert all(vermillion)
    size = page.page.locator(".cloud").evaluate("canvas => [canvas.width, canvas.clientWidth]")
    assert size[0] == pytest.approx(2 * size[1], abs=2)


def test_play_plays_and_stops_at_the_end(read):
    page = read("plane")
    play = page.page.locator("#play")
    page.page.locator("#speed").select_option("4")
    assert page.state()["index"] == 0
    play.click()
    assert play.inner_text() == "Pause"
    page.until(lambda state: state["index"] > 0)
    page.until(lambda state: not state["playing"])
    assert page.state()["index"] == 10
    assert play.inner_text() == "Play"
    play.click()  # from the beginning
    play.click()
    assert not page.state()["playing"]
    assert page.state()["index"] < 10
    page.page.locator("#back").click()
    before = page.state()["index"]
    page.page.locator("#forward").click()
    assert page.state()["index"] == before + 1


def test_pointing_at_a_particle_says_its_row(read, folder):
    page, run = read("plane"), Run.open(folder / "plane")
    page.slide(10)
    end = run.snapshot(10)
    lonely = int(np.argmax(np.sort(np.linalg.norm(end[:, None] - end, axis=2), axis=1)[:, 1]))
    page.point(lonely)
    assert page.state(0)["hovered"] == lonely + 1
    assert page.page.locator(".tip").inner_text() == f"row {lonely + 1}"
    said = page.readout()
    assert said.startswith(f"Row {lonely + 1}, at step 20: x0 = ")
    values = [float(part.partition(" = ")[2]) for part in said.partition(": ")[2].split(", ")]
    assert np.allclose(values, end[lonely], rtol=2e-3, atol=2e-3)
    page.page.mouse.move(5, 5)
    assert page.readout() == "No row is chosen."
    page.point(lonely, click=True)
    page.page.mouse.move(5, 5)
    assert page.state(0)["chosen"] == lonely + 1
    assert page.page.locator("#row-0").input_value() == str(lonely + 1)


def test_rows_can_be_typed(read, folder):
    page, run = read("digits"), Run.open(folder / "digits")
    field = page.page.locator("#row-0")
    plain = page.pixels()
    field.fill("7")
    said = page.readout()
    assert said.startswith(f"Row 7, class {run.label[6]}, at the end (step 20): pixel_0_1 = ")
    assert said.endswith(f"and {len(run.columns) - 8} more columns")
    assert page.pixels() != plain
    image = page.page.get_by_role("img", name="Image of row 7 at the end")
    assert image.is_visible()
    light = np.array(image.evaluate("canvas => [...canvas.getContext('2d').getImageData(0, 0, 8, 8).data]")).reshape(
        64, 4
    )[:, 0]
    expected = 255 - np.clip(run.table(run.snapshot(10)[6:7])[0], 0, 16) * 255 / 16
    assert np.abs(light - expected).max() <= 0.51
    for wrong in ("0", "41", "1.5"):
        field.fill(wrong)
        assert page.readout() == "Rows go from 1 to 40."
        assert page.state(0)["chosen"] is None
    field.fill("")
    assert page.readout() == "No row is chosen."


def test_everything_works_by_keyboard(read):
    page = read("plane")
    keys = page.page.keyboard
    order = []
    for _ in range(17):
        keys.press("Tab")
        order.append(
            page.page.evaluate(
                "document.activeElement.id || document.activeElement.dataset.do || document.activeElement.textContent"
            )
        )
        outline = page.page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid", order[-1]  # the focus can be seen
    assert order[0] == "Skip to the content"
    assert order[7:] == ["play", "back", "forward", "time", "speed", "trails", "start", "target", "cloud-0", "in"]
    page.page.locator("#time").focus()
    keys.press("ArrowRight")
    keys.press("ArrowRight")
    assert page.state(0)["step"] == 4
    keys.press("End")
    assert page.state(0)["step"] == 20
    keys.press("Home")
    page.page.locator("#cloud-0").focus()
    keys.press("PageDown")
    keys.press("PageDown")
    assert page.state(0)["chosen"] == 2
    keys.press("PageUp")
    assert page.readout().startswith("Row 1, at step 0")
    keys.press("Escape")
    assert page.state(0)["chosen"] is None
    keys.press("ArrowLeft")
    assert page.state(0)["x"] > 0
    keys.press("+")
    assert page.state(0)["zoom"] == pytest.approx(1.4)
    keys.press("-")
    keys.press("-")
    assert page.state(0)["zoom"] == pytest.approx(1 / 1.4)
    keys.press("0")
    assert (page.state(0)["zoom"], page.state(0)["x"]) == (1, 0)
    keys.press(" ")
    assert page.state()["playing"]
    keys.press(" ")
    assert not page.state()["playing"]


def test_wheel_zooms_about_the_pointer_once_the_picture_has_the_focus(read):
    page = read("plane")
    page.point(3)
    page.page.mouse.wheel(0, -100)
    page.page.wait_for_timeout(100)
    assert page.state(0)["zoom"] == 1  # the page scrolls
    page.point(3, click=True)
    x, y = page.state(0)["places"][3]
    page.page.mouse.wheel(0, -100)
    page.until(lambda state: state["players"][0]["zoom"] > 1)
    assert page.state(0)["zoom"] == pytest.approx(math.exp(0.2))
    assert np.allclose(page.state(0)["places"][3], (x, y), atol=1)
    for _ in range(30):
        page.page.locator("[data-do=in]").click()
    assert page.state(0)["zoom"] == 64
    page.page.locator("[data-do=reset]").click()
    assert page.state(0)["zoom"] == 1


def test_space_turns_by_dragging_and_by_keys(read, folder):
    page = read("space")
    before, plain = page.state(0), page.pixels()
    box = page.page.locator("#cloud-0").bounding_box()
    page.page.mouse.move(box["x"] + 50, box["y"] + 50)
    page.page.mouse.down()
    page.page.mouse.move(box["x"] + 90, box["y"] + 70, steps=4)
    page.page.mouse.up()
    after = page.state(0)
    assert after["yaw"] - before["yaw"] == pytest.approx(0.4)
    assert after["pitch"] - before["pitch"] == pytest.approx(0.2)
    assert page.pixels() != plain
    page.page.locator("#cloud-0").focus()
    page.page.keyboard.press("ArrowRight")
    assert page.state(0)["yaw"] - after["yaw"] == pytest.approx(0.1)
    page.page.keyboard.press("Shift+ArrowRight")
    assert page.state(0)["x"] == -24
    positions = page.state(0)["positions"]
    assert np.allclose(positions, Run.open(folder / "space").snapshot(0), atol=1e-3)


def test_one_slider_drives_all_runs(read, folder):
    page, runs = read("several"), [Run.open(folder / name) for name in ("plane", "short")]
    assert page.state()["clock"] == list(range(0, 21, 2))
    for index, steps in ((2, (4, 4)), (5, (10, 10)), (9, (18, 10))):  # the shorter one stays at its end
        page.slide(index)
        for n, (run, step) in enumerate(zip(runs, steps)):
            assert page.state(n)["step"] == step
            assert np.allclose(
                page.state(n)["positions"], run.snapshot(int(np.flatnonzero(run.steps == step)[0])), atol=1e-3
            )
    page.page.locator("#by").select_option("part")
    page.slide(page.state()["clock"].index(0.5))
    assert [page.state(n)["step"] for n in (0, 1)] == [10, 4]
    assert page.page.locator("#now").inner_text() == "50 % of the way"
    page.page.locator("#by").select_option("time")
    page.slide(len(page.state()["clock"]) - 1)
    assert [page.state(n)["step"] for n in (0, 1)] == [20, 10]


def test_curves_follow_the_player_and_lead_it(read, folder):
    page, series = read("plane"), Run.open(folder / "plane").series
    page.slide(5)
    energy = page.page.locator("figure.chart", has_text="kinetic energy").first
    value = float(series.loc[series["step"] == 10, "kinetic_energy"].iloc[0])
    said = energy.locator(".value").inner_text()
    assert said.endswith(" at step 10")
    assert float(said.split()[0]) == pytest.approx(value, rel=5e-3)
    assert float(energy.locator(".cursor").get_attribute("x1")) == pytest.approx(56 + 284 * 10 / 20)
    dot, line = energy.locator("circle").nth(0), energy.locator("path").first.get_attribute("d")
    assert f"{dot.get_attribute('cx')},{dot.get_attribute('cy')}" in line
    energy.scroll_into_view_if_needed()
    box = energy.locator("svg[role=img]").bounding_box()
    page.page.mouse.click(box["x"] + box["width"] * (56 + 284 * 0.8) / 360, box["y"] + box["height"] / 2)
    assert page.state(0)["step"] == 16


def test_choices_change_the_picture(read):
    page = read("digits")
    page.slide(6)
    seen = [page.pixels()]
    for name in ("trails", "start", "target", "classes"):
        page.page.locator(f"#{name}").click()
        seen.append(page.pixels())
    assert len(set(seen)) == 5
    legend = page.page.locator(".player .legend")
    assert legend.inner_text().split() == ["particles", "source"]
    page.page.locator("#classes").check()
    assert legend.inner_text().split() == ["source", *"0123456789"]


def test_hostile_names_are_shown_as_text(read):
    page = read("hostile")
    page.page.locator("#row-0").fill("1")
    assert page.readout().startswith(f"Row 1, class {HOSTILE}, at step 0: {HOSTILE} = ")
    page.point(0)
    assert HOSTILE in page.page.locator(".tip").inner_text()
    assert page.page.locator("img[src=x]").count() == 0
    assert page.page.get_by_text(HOSTILE).count() >= 2


def test_the_policy_stops_other_scripts_and_loads(read, folder):
    page = read("plane")
    image = folder / "image.svg"
    image.write_text('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>')
    found = page.page.evaluate(
        """(address) => new Promise((done) => {
          const script = document.createElement("script");
          script.textContent = "window.intruder = 1";
          document.body.append(script);
          const image = new Image();
          image.onload = image.onerror = (event) => done([event.type, window.intruder ?? null]);
          image.src = address;
        })""",
        image.as_uri(),
    )
    assert found == ["error", None]
    assert len(page.complaints) == 2
    assert all("Content Security Policy" in text for text in page.complaints)
    page.complaints.clear()
    page.requests.remove(image.as_uri())  # it was stopped


def test_assistive_technology_finds_names(read):
    page = read("several").page
    for role, name in (
        ("button", "Play"), ("button", "Step back"), ("slider", "Snapshot"), ("combobox", "Speed"), ("combobox", "Together by"),
        ("checkbox", "Trails"), ("main", None), ("navigation", "On this page"), ("group", "Playback"), ("heading", "Quality at the end"),
        ("application", "Particles of plane, a picture that moves"), ("application", "Particles of short, a picture that moves"),
        ("group", "View of short"), ("region", "Table of quality"), ("button", "Copy the command that repeats plane"),
    ):  # fmt: skip
        assert page.get_by_role(role, **({"name": name, "exact": True} if name else {})).count() == 1, name
    assert page.get_by_role("spinbutton", name="Row").count() == 2
    assert page.get_by_role("button", name="Zoom in").count() == 2
    for picture in page.get_by_role("img").all():
        assert len(picture.get_attribute("alt") or picture.get_attribute("aria-label")) > 15
    described = page.locator(".cloud").first.get_attribute("aria-describedby")
    assert "Page Up" in page.locator(f"#{described}").inner_text()
    assert page.locator(".readout").first.get_attribute("aria-live") == "polite"


def test_text_has_contrast(read):
    """At least 4.5 to 1, of every text on what is behind it."""
    page = read("several").page
    page.locator("details summary").first.click()
    poor = page.evaluate(
        """() => {
          const parse = (text) => (text.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
          const light = ([r, g, b]) => [r, g, b].map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
            .reduce((sum, v, k) => sum + v * [0.2126, 0.7152, 0.0722][k], 0);
          const behind = (element) => {
            for (let at = element; at; at = at.parentElement) {
              const color = parse(getComputedStyle(at).backgroundColor);
              if (color.length === 3 || color[3] > 0) return color;
            }
            return [255, 255, 255];
          };
          const found = [];
          for (const element of document.querySelectorAll("body *")) {
            if (!element.checkVisibility() || ![...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim())) continue;
            const style = getComputedStyle(element), ink = element.namespaceURI.endsWith("svg") ? style.fill : style.color;
            const [low, high] = [light(parse(ink)), light(behind(element))].sort((a, b) => a - b);
            if ((high + 0.05) / (low + 0.05) < 4.5) found.push(element.outerHTML.slice(0, 80));
          }
          return found;
        }"""
    )
    assert poor == []


@pytest.mark.parametrize("name", ["several", "space", "digits", "hostile"])
def test_narrow_screens_need_no_scrolling_sideways(read, name):
    page = read(name, viewport={"width": 320, "height": 640}).page
    assert page.evaluate("document.documentElement.scrollWidth") == 320
    canvas = page.locator(".cloud").first.bounding_box()
    assert canvas["width"] >= 280
    for button in page.locator("button:visible").all():
        box = button.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 320


def test_pictures_are_there_and_print(read):
    page = read("painted").page
    sizes = page.evaluate(
        "Promise.all([...document.images].map(async (image) => { await image.decode(); return image.naturalWidth; }))"
    )
    assert len(sizes) == 5
    assert min(sizes) > 300
    page.emulate_media(media="print")
    assert not page.locator("#play").is_visible()
    assert page.locator("img").first.is_visible()
    assert page.locator("table.quality").is_visible()


def test_nothing_moves_by_itself_and_calm_readers_get_it_slowly(read):
    page = read("plane", reduced_motion="reduce")
    assert not page.state()["playing"]
    assert page.page.locator("#speed").input_value() == "0.25"
    assert read("plane").page.locator("#speed").input_value() == "1"


def test_the_command_is_copied(read, folder):
    page = read("plane", permissions=["clipboard-read", "clipboard-write"])
    page.page.locator(".copy").click()
    page.page.get_by_text("Copied.").wait_for()
    copied = page.page.evaluate("navigator.clipboard.readText()")
    assert copied == page.page.locator("#command-0").inner_text()
    assert copied.startswith("particles simulate --target moons --particles 40")


def test_without_scripts_the_page_says_what_works(read):
    page = read("painted", java_script_enabled=False).page
    assert "The player needs JavaScript" in page.locator("noscript").inner_text()
    assert page.locator("img").count() == 5


def test_data_are_not_markup(folder):
    text = Path(folder / "hostile.html").read_text()
    data = text.partition('id="data">')[2].partition("</script>")[0]
    assert not set("<>&") & set(data)
    assert json.loads(data)["runs"][0]["columns"] == [HOSTILE, "<!--"]
