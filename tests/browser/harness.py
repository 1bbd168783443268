"""What both parts of the browser tests share: the browser, a page that is watched, axe-core, and the run itself."""

import contextlib
import importlib.resources
import os
import sys
import time
import traceback
from pathlib import Path

from playwright.sync_api import expect, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "src" / "admin" / "page.html"
OUT = Path(os.environ.get("BROWSER_OUT", ROOT / "target" / "browser"))
SCREENSHOTS = OUT / "screenshots"
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WIDE = {"width": 1400, "height": 900}
NARROW = {"width": 360, "height": 780}
PATIENCE_MS = 10_000

# Runs before the page: what the policy stopped is then known, and whether anything from outside ran.
WATCH = """
window.violations = [];
addEventListener('securitypolicyviolation', (e) => violations.push(`${e.violatedDirective} ${e.blockedURI} ${e.sample}`));
"""


class Watched:
    """A page, and all that went wrong in it."""

    def __init__(self, page):
        self.page = page
        self.problems = []
        page.on("console", self.console)
        page.on("pageerror", lambda error: self.problems.append(f"uncaught: {error}"))
        page.on("dialog", self.dialog)

    def console(self, message):
        # That a call was refused is for the page to show; the browser says so in the console as well.
        if message.type in ("error", "warning") and not message.text.startswith("Failed to load resource"):
            self.problems.append(f"console: {message.text[:300]}")

    def dialog(self, dialog):
        self.problems.append(f"a dialog was fired: {dialog.message}")
        dialog.dismiss()

    def check(self):
        self.problems += [f"policy: {found}" for found in self.page.evaluate("window.violations")]
        assert not self.problems, "; ".join(self.problems)


@contextlib.contextmanager
def opened(browser, url, viewport=None, scheme="light", init="", **options):
    """A watched page in a context of its own, which must have had no problem when it is closed."""
    context = browser.new_context(viewport=viewport or WIDE, color_scheme=scheme, **options)
    context.set_default_timeout(browser.patience)
    expect.set_options(timeout=browser.patience)
    context.add_init_script(WATCH + init)
    try:
        page = context.new_page()
        watched = Watched(page)
        page.goto(url)
        yield page
        watched.check()
    finally:
        context.close()


def live(page):
    expect(page.locator("#connection")).to_have_text("live")


def searched(page):
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page.locator("#found")).to_be_visible()


def announcements(page):
    """Starts to count what is said to screen readers; the list is window.said."""
    page.evaluate(
        "window.said = []; new MutationObserver(() => said.push(document.getElementById('announce').textContent))"
        ".observe(document.getElementById('announce'), {childList: true, characterData: true, subtree: true})"
    )


def texts_of(page, element):
    """Starts to collect what an element says, in order; the set is window.seen. What passes quickly is in it too."""
    page.evaluate(
        "(id) => { window.seen = new Set(); const node = document.getElementById(id);"
        "new MutationObserver(() => seen.add(node.textContent)).observe(node, {childList: true}); }",
        element,
    )


def fits(page):
    """Nothing is wider than the window, unless it scrolls by itself."""
    width = page.viewport_size["width"]
    wide = page.evaluate(
        """(width) => [...document.body.querySelectorAll('*')].filter((node) => {
             const box = node.getBoundingClientRect();
             return box.width && (box.right > width + 1 || box.left < -1) && !node.closest('.quiet, .scroll, thead, svg');
           }).slice(0, 5).map((node) => `${node.tagName}.${node.className}#${node.id} ${node.textContent.slice(0, 40)}`)""",
        width,
    )
    assert not wide, f"wider than {width} px: {wide}"
    scrolls = page.evaluate("document.documentElement.scrollWidth")
    assert scrolls <= width, f"the page is {scrolls} px wide in a window of {width} px"


takes_screenshots = True

AXE = importlib.resources.files("axe_playwright_python").joinpath("axe.min.js").read_text()
AXE_TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


def axe(page, where, what="html"):
    """axe-core finds nothing. It is evaluated by the debugger, so that the page keeps its policy."""
    page.evaluate(AXE + "\n;undefined")
    result = page.evaluate("([what, tags]) => axe.run(what, {runOnly: {type: 'tag', values: tags}})", [what, AXE_TAGS])
    found = [
        f"{violation['id']} ({violation['help']}): {[node['target'] for node in violation['nodes'][:3]]}"
        for violation in result["violations"]
    ]
    assert len(result["passes"]) > 3, f"axe-core judged next to nothing, {where}"
    assert not found, f"axe-core, {where}: {found}"


def screenshot(page, name, whole=True):
    # Those of pages that are broken on purpose would only mislead.
    if takes_screenshots:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=whole)


def run(title, tests, patience=PATIENCE_MS):
    """Runs each test and prints one line of it; ends the program with 1 where any failed."""
    failed = 0
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        browser.patience = patience
        for name, test in tests:
            began = time.monotonic()
            try:
                told = test(browser)
                result = f"ok ({told[:110]})" if told else "ok"
            except Exception as error:  # A test may fail in any way; the next one runs all the same.
                failed += 1
                result = f"FAILED: {str(error).splitlines()[0][:600] if str(error) else type(error).__name__}"
                traceback.print_exc(file=sys.stderr)
            print(f"{title}: {name}: {result} ({time.monotonic() - began:.1f} s)", flush=True)
        browser.close()
    print(f"{title}: {len(tests) - failed} of {len(tests)} passed")
    sys.exit(1 if failed else 0)
