"""The page of a report in a real browser: search, sort, open, hover; no network."""

import json
import shutil

import numpy as np
import pytest

import skchoice

try:
    from selenium import webdriver
    from selenium.webdriver import ActionChains, Keys
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.support.ui import WebDriverWait
except ImportError:
    webdriver = None

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")

pytestmark = [
    pytest.mark.skipif(webdriver is None, reason="selenium is not installed"),
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER),
        reason="no browser: `make browser` installs chromium on Debian, given root",
    ),
]

HOSTILE = [
    "<script>window.hacked = 1</script>",
    '"><img src=x onerror="window.hacked = 1">',
    "</script><script>window.hacked = 1</script>",
    "\u202egnp.exe\u202c",
    "x" * 10_000,
    b"\xff\xfe\xfd",
    "\udcff",
    "e" + "\u0301" * 400,
    " ordinary",
    "\n",
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (
        "--headless=new",
        "--no-sandbox",  # the tests may run as root
        "--disable-dev-shm-usage",
        "--window-size=1280,900",
        f"--user-data-dir={tmp_path_factory.mktemp('profile')}",
    ):
        options.add_argument(argument)
    options.set_capability(
        "goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"}
    )
    driver = webdriver.Chrome(options, Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def sae(mixture):
    return skchoice.MutualChoiceSAE(
        n_features=200, k=4, max_iter=15, batch_size=100, random_state=0
    ).fit(mixture(600))


@pytest.fixture
def opened(browser, sae, mixture, tmp_path):
    """Open a report, and check after the test that all was quiet."""
    X = mixture(600)

    def open_report(tokens=None, **settings):
        if tokens is None:
            tokens = [f" word{row % 37}" for row in range(len(X))]
        page = skchoice.report(
            sae, X, tokens=tokens, path=tmp_path / "report.html", **settings
        )
        browser.get("about:blank")
        browser.get_log("performance"), browser.get_log("browser")
        browser.get(page.as_uri())
        until(browser, "return 'ready' in document.documentElement.dataset")
        return page

    yield open_report
    assert browser.get_log("browser") == []
    fetched = [
        message["params"]["request"]["url"]
        for entry in browser.get_log("performance")
        for message in [json.loads(entry["message"])["message"]]
        if message["method"] == "Network.requestWillBeSent"
    ]
    page_itself = (tmp_path / "report.html").as_uri()
    assert {url.split("#")[0] for url in fetched} <= {page_itself, "data:,"}
    assert page_itself in fetched


def until(browser, script):
    WebDriverWait(browser, 30).until(lambda _: browser.execute_script(script))


def ids(browser):
    return browser.execute_script(
        "return [...document.querySelectorAll('tbody a')].map((a) => +a.textContent)"
    )


def column(browser, number):
    cells = browser.execute_script(
        f"""return [...document.querySelectorAll('tbody td:nth-child({number})')]
          .map((cell) => parseFloat(cell.textContent))"""
    )
    return np.array(cells)


def find(browser, selector):
    return browser.find_element("css selector", selector)


def heading(browser, name):
    (found,) = (
        button
        for button in browser.find_elements("css selector", "th button")
        if button.text.startswith(name)
    )
    return found


def type_search(browser, words):
    box = find(browser, "#search")
    box.send_keys(Keys.CONTROL, "a")
    box.send_keys(Keys.DELETE)
    box.send_keys(words)


def test_search_sort_open_and_hover(browser, opened):
    opened()
    # It begins with the densest; a click on another heading sorts by that.
    assert (np.diff(column(browser, 4)) <= 0).all()
    heading(browser, "Largest").click()
    largest = column(browser, 6)
    assert len(largest) == 60 and (np.diff(largest) <= 0).all()
    heading(browser, "Largest").click()
    assert (np.diff(column(browser, 6)) >= 0).all()
    heading(browser, "Feature").click()
    assert ids(browser) == list(range(60))

    # The end of the table brings more rows.
    browser.execute_script("window.scrollTo(0, document.body.scrollHeight)")
    until(browser, "return document.querySelectorAll('tbody tr').length === 120")
    browser.execute_script("window.scrollTo(0, 0)")

    type_search(browser, "17")
    assert ids(browser)[0] == 17
    type_search(browser, "WORD3")
    labels = [row.text for row in browser.find_elements("css selector", "tbody tr")]
    assert labels and all("word3" in label for label in labels)
    type_search(browser, "no such word")
    assert ids(browser) == [] and find(browser, "#found").text == "0 of 200"
    type_search(browser, "word")

    first = ids(browser)[0]
    find(browser, "tbody tr").click()
    until(browser, "return !document.getElementById('one').hidden")
    assert find(browser, "h2:not(#features-title)").text.startswith(f"Feature {first}")
    token = find(browser, ".context .at")
    ActionChains(browser).move_to_element(token).perform()
    value = find(browser, ".context .value").text
    assert find(browser, "#tip").is_displayed() and find(browser, "#tip").text == value

    # A context unfolds; keys walk on and back.
    find(browser, ".context").click()
    assert "open" in find(browser, ".context").get_attribute("class")
    find(browser, "body").send_keys(Keys.ARROW_RIGHT)
    until(browser, f"return location.hash === '#feature-{ids(browser)[1]}'")
    find(browser, "body").send_keys(Keys.ESCAPE)
    until(browser, "return !document.getElementById('all').hidden")
    assert find(browser, "#search").get_attribute("value") == "word"


def test_a_link_opens_a_feature(browser, opened):
    page = opened()
    browser.get("about:blank")
    browser.get(page.as_uri() + "#feature-150")
    until(browser, "return !document.getElementById('one').hidden")
    assert find(browser, "#one h2").text.startswith("Feature 150")


@pytest.mark.parametrize(
    "arguments, ticks",
    [
        ("7, 84, 1", [20, 40, 60, 80]),  # away from zero, as an L0 is
        ("32, 33, 1", [32, 33]),  # one number of matches for all
        ("0, 0.04", [0, 0.01, 0.02, 0.03, 0.04]),
        ("0, 1900", [0, 500, 1000, 1500]),
    ],
)
def test_axes_have_a_few_round_numbers(browser, opened, arguments, ticks):
    opened()
    found = browser.execute_script(f"return steps({arguments})")
    np.testing.assert_allclose(found, ticks, atol=1e-12)


def test_hostile_tokens_are_inert(browser, opened, mixture):
    n_columns = mixture(1).shape[1]
    opened(
        [HOSTILE[row % len(HOSTILE)] for row in range(600)],
        title="</title><script>window.hacked = 1</script><b>title",
        unembedding=np.eye(n_columns, len(HOSTILE)),
        vocabulary=HOSTILE,
        document=np.zeros(600, dtype=int),
    )
    find(browser, "tbody tr").click()
    until(browser, "return !document.getElementById('one').hidden")
    assert browser.execute_script("return window.hacked") is None
    inside = "return document.querySelectorAll('body %s').length"
    assert browser.execute_script(inside % "img") == 0
    assert browser.execute_script(inside % "b") == 0
    assert "<b>title" in find(browser, "h1").text
    shown = find(browser, "#one").get_attribute("textContent")
    for text in (HOSTILE[0], HOSTILE[1], "\\u202egnp.exe", "(10,000 characters)"):
        assert text in shown
    assert "\\xff\\xfe\\xfd" in shown and "\\udcff" in shown
    assert "\u202e" not in shown and "x" * 49 not in shown
    # Nothing reaches out of the page to the side.
    width = "return document.documentElement.scrollWidth <= window.innerWidth"
    assert browser.execute_script(width)


def test_pictures_are_drawn(browser, opened):
    opened(image_shape=(3, 4), classes=np.arange(600) % 3)
    find(browser, "tbody tr").click()
    until(browser, "return !document.getElementById('one').hidden")
    sizes = browser.execute_script(
        """return [...document.querySelectorAll('#one canvas')].map((canvas) => {
          const { data } = canvas.getContext('2d').getImageData(0, 0, 4, 3);
          return [canvas.width, canvas.height, new Set(data).size];
        })"""
    )
    assert len(sizes) > 10
    assert all(size[:2] == [4, 3] and size[2] > 2 for size in sizes)
