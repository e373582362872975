"""The page in a real browser, on a real service that real agents have reported to."""

import shutil
from pathlib import Path

import pytest
from tests.service.conftest import Running, eventually, make_export
from tests.service.fleet import run_waves

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync"
)
SCREENS = {
    "laptop": {"viewport": {"width": 1280, "height": 800}},
    "phone": {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True},
}
#: Screenshots are left here, for people to look at.
PICTURES = Path("test-output/page")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    with Running(tmp_path_factory.mktemp("page") / "store", "--rate", "1e6") as running:
        run_waves(running, waves=3, agents=4)
        running.post(b"no export at all")
        yield running


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser):
    """Open an address; in the end, whatever the browser complained of fails the test."""
    contexts, complaints = [], []

    def open_page(url, **options):
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.on("console", lambda m: m.type == "error" and complaints.append(m.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    expected = ("401", "net::ERR_")  # no token yet; a service that was stopped
    assert [c for c in complaints if not any(sign in c for sign in expected)] == []


def number(page, name):
    return int(page.inner_text(f"#{name}").replace(",", ""))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("screen", SCREENS)
def test_everyone_can_use_it(fleet, open_page, screen, scheme):
    from axe_playwright_python.sync_playwright import Axe

    page = open_page(fleet.url, color_scheme=scheme, **SCREENS[screen])
    page.wait_for_selector("#board:not([hidden]) #map circle")
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=PICTURES / f"{screen}-{scheme}.png", full_page=True)
    found = Axe().run(page).response["violations"]
    assert [(rule["id"], [node["target"] for node in rule["nodes"]]) for rule in found] == []
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= SCREENS[screen]["viewport"]["width"]  # nothing is cut off to the side


def test_it_shows_what_the_service_knows(fleet, open_page):
    page = open_page(fleet.url)
    page.wait_for_selector("#board:not([hidden]) #map circle")
    told = fleet.overview()
    assert number(page, "agents") == told["totals"]["agents"] == 12
    assert number(page, "accepted") == told["totals"]["accepted"]
    assert page.locator("#map circle").count() >= len(told["map"]["points"])
    assert page.locator("#routes tbody tr").count() == len(told["routes"])
    assert f"{told['warm']['mean']:.3f}" == page.inner_text("#warm")
    assert told["warm"]["mean"] > told["cold"]["mean"]  # on real data, a warm start pays
    assert "quality below threshold" in page.inner_text("#reasons")
    assert "refused: data" in page.inner_text("#reasons")
    labels = page.locator("svg[role=img]").evaluate_all("all => all.map(x => x.ariaLabel)")
    assert all(labels)


def test_it_asks_no_other_host(fleet, open_page):
    page = open_page(fleet.url)
    page.wait_for_selector("#board:not([hidden])")
    names = page.evaluate("performance.getEntriesByType('resource').map(entry => entry.name)")
    assert names
    assert all(name.startswith((fleet.url, "data:")) for name in names)


def test_news_arrives_without_a_reload(fleet, open_page):
    page = open_page(fleet.url)
    page.wait_for_selector("#state[data-state=live]")
    before = number(page, "agents")
    assert fleet.post(make_export("live", dim=64).to_bytes())[0] == 201
    eventually(lambda: number(page, "agents") == before + 1)
    assert "live" in page.inner_text("#recent")


def test_the_keyboard_reaches_everything(fleet, open_page):
    page = open_page(fleet.url)
    page.wait_for_selector("#board:not([hidden])")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    reached = set()
    for _ in range(6):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate("document.activeElement.ariaLabel ?? document.activeElement.tagName")
        )
    assert {"SUMMARY", "Table of routes", "Table of exports"} <= reached
    page.locator("summary").focus()
    page.keyboard.press("Enter")
    assert page.locator("#map-table").is_visible()


def test_an_empty_service_says_how_to_begin(tmp_path, open_page):
    with Running(tmp_path) as service:
        page = open_page(service.url)
        page.wait_for_selector("#empty:not([hidden])")
        assert service.url in page.inner_text("#empty")


def test_a_token_opens_the_door_and_a_lost_connection_is_said(tmp_path, open_page, capsys):
    from sona.cli import main

    store = tmp_path / "store"
    main(["token", "create", "--store", str(store), "--tenant", "acme"])
    token = capsys.readouterr().out.strip()
    with Running(store) as service:
        assert service.post(make_export().to_bytes(), token=token)[0] == 201
        page = open_page(service.url)
        page.wait_for_selector("#door:not([hidden])")
        assert not page.locator("#board").is_visible()
        page.fill("#token", "wrong")
        page.keyboard.press("Enter")
        eventually(lambda: page.inner_text("#door-fault"))
        page.fill("#token", token)
        page.keyboard.press("Enter")
        page.wait_for_selector("#board:not([hidden])")
        assert page.inner_text("#tenant") == "acme"
    eventually(lambda: page.get_attribute("#state", "data-state") == "lost")
    page.close()
