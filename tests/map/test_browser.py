"""The page in a real browser."""

import csv
import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from fusion_engine.audio.listing import read_list
from fusion_engine.map import draw_map
from fusion_engine.map.groups import DARK, LIGHT
from fusion_engine.map.projection import project
from fusion_engine.table_reader import open_table

from .. import signals
from .browser import NAMES, Browser, find_chromium
from .tables import HOSTILE, write_table

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(
        find_chromium() is None, reason=f"no browser: {', '.join(NAMES)}, or one in $CHROMIUM"
    ),
]

RATE = 8000
BIRDS = ("owl", "jay", "wren")
# Four windows of each bird's recording, near each other; the birds far apart, left to right.
PATHS = [f"in/{bird}/{bird} 1.wav" for bird in BIRDS for _ in range(4)]
START = np.tile(np.arange(4) / 2, 3)
SQUARE = np.array([[0, 0], [0, 1], [1, 1], [1, 0]])
EMBEDDINGS = np.concatenate([SQUARE - (8, 0), SQUARE, SQUARE - (-9, 0)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Recordings, tables and their pages."""
    folder = tmp_path_factory.mktemp("pages")
    for seed, bird in enumerate(BIRDS):
        file = folder / "in" / bird / f"{bird} 1.wav"
        file.parent.mkdir(parents=True)
        soundfile.write(file, signals.tone(4.0, RATE, seed), RATE)
    write_table(folder / "birds.parquet", PATHS, EMBEDDINGS, start=START, end=START + 0.5)
    table = write_table(folder / "hostile.npz", HOSTILE, np.eye(len(HOSTILE)))
    draw_map(table, folder / "hostile.html", method="pca", audio_root=folder)
    many = [f"in/{n:05}.wav" for n in range(5000)]
    values = np.random.default_rng(0).standard_normal((5000, 2))
    draw_map(write_table(folder / "many.npz", many, values), folder / "many.html", method="pca")
    for name, embed in (("birds", False), ("embedded", True)):
        draw_map(
            folder / "birds.parquet",
            folder / f"{name}.html",
            method="pca",
            audio_root=folder,
            embed_audio=embed,
        )
    return folder


@pytest.fixture(scope="module")
def points(folder):
    return project(open_table(folder / "birds.parquet"), "pca").points


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("browser")) as browser:
        browser.resize(1000, 640)
        yield browser


@pytest.fixture
def browser(started):
    """One that complains about nothing, and asks for nothing but files."""
    started.complaints.clear()
    started.requests.clear()
    yield started
    started.emulate()
    assert started.complaints == []
    assert {url.partition(":")[0] for url in started.requests} <= {"file"}


def show(browser, page):
    """The page as when it was opened, which costs a second of compiling shaders."""
    if browser.js("location.href") != page.as_uri():
        browser.open(page)
    browser.emulate(prefers_reduced_motion="reduce")
    browser.js("document.activeElement.blur()")
    browser.key("Escape")
    browser.key("0")
    browser.js("document.getElementById('close').click()")
    browser.emulate()


@pytest.fixture
def birds(browser, folder):
    show(browser, folder / "birds.html")
    return browser


def at(browser, point):
    """Where a point of the map is in the window, when all of it is shown."""
    left, top, width, height = browser.box("#canvas")
    x, y = np.array(point, float) * min(width, height) / 2 / 1.08
    return float(left + width / 2 + x), float(top + height / 2 - y)


def around(browser, points):
    """The corners of a box that holds some points."""
    places = np.array([at(browser, point) for point in points])
    (left, top), (right, bottom) = places.min(axis=0) - 14, places.max(axis=0) + 14
    corners = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top + 2)]
    return [(float(x), float(y)) for x, y in corners]


def listed(browser):
    return browser.js("[...document.querySelectorAll('#list .row .name')].map(e => e.textContent)")


def heading(browser):
    return browser.text("#heading"), browser.text("#number")


def rows_of(content):
    return list(csv.DictReader(io.StringIO(content.decode(), newline="")))


def picture(browser, tmp_path):
    browser.frames(4)
    browser.screenshot(tmp_path / "shot.png")
    return imread(tmp_path / "shot.png")[..., :3]


def assert_coloured(image, browser, points, palette):
    """Each bird's points have its colour."""
    for row, point in points.items():
        x, y = (round(value) for value in at(browser, point))
        near = image[y - 2 : y + 3, x - 2 : x + 3].reshape(-1, 3).mean(axis=0)
        number = sorted(BIRDS).index(BIRDS[row // 4])
        distance = [np.abs(near - to_rgb(colour)).max() for colour in palette]
        assert int(np.argmin(distance)) == number
        assert min(distance) < 0.1


def test_points_are_where_they_belong(birds, points, tmp_path):
    assert birds.text("#title") == "birds.parquet"
    assert birds.text("#made").startswith("12 clips · 2-d embeddings, cnn14_16k · PCA, the first")
    assert heading(birds) == ("All clips", "12")
    assert_coloured(picture(birds, tmp_path), birds, dict(enumerate(points)), LIGHT)


def test_a_point_shows_its_clip(birds, points, tmp_path):
    for row in (0, 5, 10):
        birds.move(*at(birds, points[row]))
        bird, start = BIRDS[row // 4], START[row]
        times = f"0:{start:04.1f} – 0:{start + 0.5:04.1f}"
        shown = json.dumps(f"{bird} 1.wav\nin/{bird}/\n{times}\n{bird}")
        birds.wait(f"document.getElementById('card').innerText === {shown}")
        x, y = map(round, at(birds, points[row]))
        assert picture(birds, tmp_path)[y, x].max() == 0
    birds.move(*at(birds, (0, -1)))
    birds.wait("!document.getElementById('card').checkVisibility()")


@pytest.mark.parametrize("page", ["birds", "embedded"])
def test_a_click_plays_the_clip(browser, points, folder, tmp_path, page):
    shown = folder / f"{page}.html"
    if page == "embedded":  # the page is all that there is
        shown = Path(shutil.copy(shown, tmp_path / "alone.html"))
    show(browser, shown)
    browser.click_at(*at(browser, points[6]))
    browser.wait("document.getElementById('player').checkVisibility()")
    assert browser.text("#player-name") == "jay 1.wav"
    # From its start to its end.
    browser.wait("audio.readyState >= 2 && audio.duration > 3.9 && audio.currentTime >= 1")
    browser.wait("audio.paused")
    assert 1.5 <= browser.js("audio.currentTime") < 3  # Chromium looks four times a second
    assert not browser.visible("#player-error")
    asked = [url for url in browser.requests if url.partition("#")[0].endswith(".wav")]
    if page == "birds":
        assert {url.partition("#")[0] for url in asked} == {(folder / "in/jay/jay 1.wav").as_uri()}
    else:
        assert asked == []
    browser.click("#close")
    assert not browser.visible("#player")


@pytest.mark.parametrize("by_button", [True, False])
def test_a_lasso_makes_a_list(birds, points, by_button, tmp_path):
    if by_button:
        birds.click("#lasso")
    birds.drag(around(birds, points[4:8]), shift=not by_button)
    birds.wait("document.getElementById('heading').innerText === 'Selected'")
    assert heading(birds) == ("Selected", "4")
    assert listed(birds) == ["jay 1.wav"] * 4
    selected = {row: points[row] for row in range(4, 8)}
    assert_coloured(picture(birds, tmp_path), birds, selected, LIGHT)
    birds.click("#download")
    content = birds.downloaded()
    (tmp_path / "list.csv").write_bytes(content)
    assert [tuple(part)[:3] for part in read_list(tmp_path / "list.csv")] == [
        (part, START[row], START[row] + 0.5)
        for row, part in ((row, Path(PATHS[row])) for row in range(4, 8))
    ]
    assert {row["folder"] for row in rows_of(content)} == {"jay"}
    birds.click("#clear")
    assert heading(birds) == ("All clips", "12")


def test_a_lasso_around_nothing(birds, points):
    left, top, width, height = birds.box("#canvas")
    x, y = left + width - 60, top + height - 60
    birds.drag([(x, y), (x + 40, y), (x + 40, y + 40), (x, y + 40), (x, y + 2)], shift=True)
    birds.wait("document.getElementById('empty').checkVisibility()")
    assert birds.text("#empty") == "No point is in the lasso."
    assert birds.js("document.getElementById('download').disabled")


def test_search(birds):
    birds.click("#search")
    birds.type("OWL in")
    birds.wait("document.getElementById('heading').innerText === 'Found'")
    assert heading(birds) == ("Found", "4")
    assert listed(birds) == ["owl 1.wav"] * 4
    birds.type(" zebra")
    birds.wait("document.getElementById('empty').checkVisibility()")
    assert birds.text("#empty") == "No clip matches “OWL in zebra”."


def test_groups_are_switched_off(birds, points):
    assert birds.text("#by") == "folder"
    assert birds.js("[...document.querySelectorAll('#groups button')].map(b => b.innerText)") == [
        f"{bird}\n4" for bird in sorted(BIRDS)
    ]
    birds.click("#groups button")
    assert birds.js("document.querySelector('#groups button').ariaPressed") == "false"
    assert heading(birds) == ("All clips", "8")
    birds.move(*at(birds, points[5]))
    assert not birds.visible("#card")
    birds.click("#groups button")
    assert heading(birds) == ("All clips", "12")


def focused(browser):
    return browser.js("document.activeElement.id")


def test_keys(birds):
    birds.key("/")
    assert focused(birds) == "search"
    birds.type("wren")
    birds.wait("document.getElementById('number').innerText === '4'")
    birds.key("ArrowDown")
    assert focused(birds) == "list"
    for key in ("ArrowDown", "ArrowDown", "ArrowUp"):
        birds.key(key)
    assert birds.text("#list .row[aria-selected=true] .times") == "0:00.5 – 0:01.0"
    assert birds.js("document.getElementById('list').getAttribute('aria-activedescendant')")
    birds.wait("document.getElementById('card').checkVisibility()")
    birds.key("Enter")
    birds.wait("audio.readyState >= 2")
    assert birds.text("#player-name") == "wren 1.wav"
    birds.key("Escape")
    assert heading(birds) == ("All clips", "12")
    birds.key("l")
    assert birds.js("document.getElementById('lasso').ariaPressed") == "true"
    birds.key("Escape")
    assert birds.js("document.getElementById('lasso').ariaPressed") == "false"
    birds.key("?")
    assert birds.visible("#help")
    assert "MIT License" in birds.js("document.querySelector('#help pre').textContent")
    birds.key("Escape")
    assert not birds.visible("#help")


def test_the_map_by_keys(birds):
    """Zoomed in on the middle, the outer birds are out of sight; 0 brings them back."""
    birds.js("document.getElementById('canvas').focus()")
    for _ in range(4):
        birds.key("+")
    birds.key("v")
    birds.wait("document.getElementById('heading').innerText === 'Selected'")
    assert listed(birds) == ["jay 1.wav"] * 4
    birds.key("Escape")
    birds.js("document.getElementById('canvas').focus()")
    for _ in range(8):
        birds.key("ArrowRight")
    birds.key("v")
    assert listed(birds) != ["jay 1.wav"] * 4
    birds.key("Escape")
    birds.emulate(prefers_reduced_motion="reduce")
    birds.key("0")
    birds.key("v")
    assert heading(birds) == ("Selected", "12")


def test_every_control_has_a_name_and_is_reached_by_tab(birds, folder):
    birds.open(folder / "birds.html")  # where Tab begins at the start
    reached = []
    for _ in range(12):
        birds.key("Tab")
        reached.append(focused(birds) or birds.js("document.activeElement.innerText"))
    expected = ["search", "keys", "theme", "canvas", "lasso", "view", "reset"]
    expected += [f"{bird}\n4" for bird in sorted(BIRDS)]
    assert reached == [*expected, "download", "list"]
    tree = birds.call("Accessibility.getFullAXTree")["nodes"]
    for node in tree:
        if node.get("role", {}).get("value") in ("button", "searchbox", "listbox", "application"):
            assert node["name"]["value"], node


def test_dark(birds, points, tmp_path):
    page = "getComputedStyle(document.body).backgroundColor"
    assert birds.js(page) == "rgb(255, 255, 255)"
    birds.emulate(prefers_color_scheme="dark")
    assert birds.js(page) == "rgb(22, 25, 29)"
    image = picture(birds, tmp_path)
    left, top, *_ = map(int, birds.box("#canvas"))
    np.testing.assert_allclose(image[top + 100, left + 20] * 255, [17, 20, 24], atol=1)
    assert_coloured(image, birds, dict(enumerate(points)), DARK)
    assert birds.js("document.getElementById('theme').ariaLabel") == "Light colours"
    birds.click("#theme")
    assert birds.js(page) == "rgb(255, 255, 255)"
    assert_coloured(picture(birds, tmp_path), birds, dict(enumerate(points)), LIGHT)


def test_the_policy_holds(birds):
    """What came into the page all the same would not run, and reach nobody."""
    birds.js(
        "document.body.append(Object.assign(document.createElement('script'),"
        "{textContent: 'window.hit = 1'}))"
    )
    assert birds.js("window.hit") is None
    fetch = "fetch('https://127.0.0.1/').then(() => 'sent', () => 'refused')"
    assert birds.js(fetch) == "refused"
    image = "new Promise((r) => { const i = new Image(); i.onload = i.onerror = (e) => r(e.type);"
    assert birds.js(f"{image} i.src = 'https://127.0.0.1/x.png'; }})") == "error"
    assert str(birds.complaints).count("Content Security Policy") >= 3
    birds.complaints.clear()
    birds.requests.clear()  # those that it refused


def test_a_narrow_window(birds, points):
    try:
        birds.resize(390, 800)
        assert birds.js("document.documentElement.scrollWidth") == 390
        left, top, width, height = birds.box("#canvas")
        assert (left, width) == (0, 390)
        assert birds.box("#side")[1] >= top + height
        birds.emulate(prefers_reduced_motion="reduce")
        birds.key("0")
        birds.drag(around(birds, points[:4]), shift=True)
        birds.wait("document.getElementById('number').innerText === '4'")
        assert listed(birds) == ["owl 1.wav"] * 4
    finally:
        birds.resize(1000, 640)


def test_a_recording_that_is_not_there(browser, folder):
    show(browser, folder / "many.html")
    browser.click("#list .row")
    browser.wait("document.getElementById('player-error').checkVisibility()")
    assert "in/00000.wav: the file is not where this page looks for it" in browser.text("#player")
    assert [entry.get("source") for entry in browser.complaints] in ([], ["network"])
    browser.complaints.clear()


def test_a_long_list_has_few_elements(browser, folder):
    show(browser, folder / "many.html")
    assert heading(browser) == ("All clips", "5,000")
    assert len(listed(browser)) < 40
    browser.js("document.getElementById('list').focus()")
    browser.key("End")
    browser.wait("document.querySelector('#list [aria-selected=true]') !== null")
    assert browser.text("#list .row[aria-selected=true] .name") == "04999.wav"
    assert len(listed(browser)) < 40


def test_hostile_names_are_text(browser, folder):
    show(browser, folder / "hostile.html")
    shown = browser.js("[...document.querySelectorAll('#list .row')].map(e => e.title)")
    assert len(shown) == len(HOSTILE)
    for text, path in zip(shown, HOSTILE, strict=True):
        expected = path.encode("utf-8", "backslashreplace").decode()
        for letter in "\n\r\t\u202e\u2028":
            expected = expected.replace(letter, f"\\u{ord(letter):04x}")
        assert text == expected
    assert browser.js("window.hit") is None
    assert browser.js("document.images.length") == 0
    assert browser.js("document.scripts.length") == 3
    browser.click("#download")
    assert [row["path"] for row in rows_of(browser.downloaded())] == [
        path.encode("utf-8", "backslashreplace").decode() for path in HOSTILE
    ]


def test_a_hostile_name_is_played(browser, folder):
    """The link leads to the file, whatever is in its name."""
    names = [name for name in HOSTILE if not name.startswith(("a/</s", "a/<!"))]
    for name in names:
        file = folder / os.fsencode(name).decode("utf-8", "surrogateescape")
        file.parent.mkdir(exist_ok=True)
        shutil.copy(folder / "in/owl/owl 1.wav", file)
    show(browser, folder / "hostile.html")
    for row in [n for n, name in enumerate(HOSTILE) if name in names]:
        browser.js(f"document.getElementById('row-{row}').click()")
        browser.wait("audio.readyState >= 2")
        assert not browser.visible("#player-error")


def test_without_webgl(browser, folder):
    none = browser.call(
        "Page.addScriptToEvaluateOnNewDocument",
        source="HTMLCanvasElement.prototype.getContext = () => null",
    )["identifier"]
    try:
        browser.open(folder / "birds.html")
    finally:
        browser.call("Page.removeScriptToEvaluateOnNewDocument", identifier=none)
    assert "It needs WebGL, which this browser does not offer (no WebGL)." in browser.text("#map")
    browser.click("#search")
    browser.type("owl")
    browser.wait("document.getElementById('number').innerText === '4'")
    browser.click("#list .row")
    browser.wait("audio.readyState >= 2")
    browser.click("#download")
    assert len(rows_of(browser.downloaded())) == 4
