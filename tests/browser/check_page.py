"""Part (a): the page against the mock, which says what no program would."""

import json
import re
import sys

import harness
from playwright.sync_api import Error as PlaywrightError
from harness import NARROW, WIDE, announcements, axe, expect, fits, live, opened, screenshot, searched, texts_of
from mock import ORG, Mock, at, export, row, status

PAGE = harness.PAGE.read_text()
TOKEN = "correct-horse-battery-staple"

# What an id, a name or a detail may be where somebody means ill. `ran` is what the scripts in it would set.
MARKUP = [
    "<img src=x onerror=\"window.ran='img'\">",
    "\"><script>window.ran='script';alert(1)</script>",
    "</style></script><svg onload=\"window.ran='svg'\">",
    "' onmouseover='window.ran=1' style='position:fixed;inset:0;width:5000px",
    "javascript:window.ran='link'",
    "</td></tr></table><form action=http://evil.invalid><input autofocus onfocus=window.ran=1>",
]
SHAPES = [
    "\u202edetrever\u2066isolated\u200bhidden\ufeff",
    "A" * 10_240,
    "line one\nline two\r\n\ttabbed\x00\x1b[31m",
    "Z" + "\u0338\u0321\u0489" * 200,
    "\ud800 a lone surrogate",
    "\ufdfd" * 60 + "\u05d0\u05d1\u05d2" * 20,
    "__proto__",
    "constructor",
    "",
]


class Evil:
    """Puts values into every place of a structure, each in its turn."""

    def __init__(self, strings=None, numbers=None):
        self.strings, self.numbers = strings, numbers
        self.turn = 0

    def of(self, values):
        self.turn += 1
        return values[self.turn % len(values)]

    def value(self, value):
        if isinstance(value, dict):
            return {key: self.value(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [self.value(inner) for inner in value]
        if isinstance(value, str):
            return self.of(self.strings) if self.strings else value
        if value is None or isinstance(value, bool):
            return self.of(self.strings) if self.strings and value is None else value
        return self.of(self.numbers) if self.numbers else value


def variants():
    odd = [-1, 0, 1e308, 2**53, 0.5, 123456789012]
    wrong = ["12", None, {"a": [1]}, [], True, "NaN"]
    yield "markup", Evil(strings=MARKUP)
    yield "shapes", Evil(strings=SHAPES)
    yield "markup and odd numbers", Evil(strings=MARKUP, numbers=odd)
    yield "odd numbers", Evil(numbers=odd)
    yield "values of the wrong kind", Evil(strings=wrong, numbers=wrong)
    yield "nothing but null", Evil(strings=[None], numbers=[None])


def evil(page_text, variant):
    mock = Mock(page_text)
    mock.status = lambda: variant.value(status())
    mock.exports = variant.value(mock.exports)
    mock.rows = variant.value([row(n, lifecycle="x", deprecation="x", sunset="x", error="x") for n in range(7)])
    mock.support = MARKUP[0] + "\n" + SHAPES[0] + "\n"
    return mock


def hostile(page_text):
    def test(browser):
        for name, variant in variants():
            for viewport in (NARROW, WIDE):
                with evil(page_text, variant) as mock, opened(browser, mock.url, viewport) as page:
                    live(page)
                    expect(page.locator("#exports tbody tr")).to_have_count(6)
                    searched(page)
                    expect(page.locator("#rows tbody tr")).to_have_count(7)
                    page.locator("#minutes summary").click()
                    page.locator("#exports button").nth(1).click()
                    expect(page.locator("#confirm")).to_be_visible()
                    fits(page)
                    page.keyboard.press("Escape")
                    inside = page.evaluate(
                        "[window.ran ?? null, document.querySelectorAll('main img, main script, main form').length,"
                        " /[\\u202a-\\u202e\\u2066-\\u2069\\u200b\\ufeff]/.test(document.body.textContent)]"
                    )
                    # The page's own forms: of the token and of the search.
                    assert inside == [None, 2, False], f"{name}: {inside}"
                    assert page.locator("#trouble").is_hidden(), f"{name}: {page.locator('#trouble').text_content()}"
                    if name == "markup":
                        expect(page.locator("#exports")).to_contain_text("<img src=x onerror=")
                    if viewport is NARROW:
                        screenshot(page, f"hostile-{name.replace(' ', '-')}-narrow")

    return test


def page_is_one_file(_browser, page_text=PAGE):
    assert page_text.count("<style") == page_text.count("</style>") == 1
    assert page_text.count("<script") == page_text.count("</script>") == 1
    markup = re.sub(r"<(style|script)>.*?</\1>", "", page_text, flags=re.DOTALL)
    for pattern in (r"\sstyle=", r"\son[a-z]+=", r"javascript:", r"<link(?! rel=\"icon\" href=\"data:)", r"\ssrc="):
        assert not re.search(pattern, markup), f"the markup has {pattern}"
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "localStorage", "@import"):
        assert word not in page_text, f"the page has {word}"
    addresses = set(re.findall(r"https?://[^\s'\"]+", page_text))
    assert addresses == {"http://www.w3.org/2000/svg"}, addresses


def events_cut_anywhere(browser, page_text=PAGE):
    """Comments, every kind of line end, several data lines, and writes of one byte, in the middle of a character."""
    state = {"n": 0}

    def framed(body):
        state["n"] += 1
        name, end = [("CR LF", "\r\n"), ("LF", "\n"), ("CR", "\r")][state["n"] % 3]
        lines = json.dumps(body | {"version": f"é–\U0001d11e {name}"}, ensure_ascii=False, indent=1).split("\n")
        block = [": a comment", "event: other", "data: {}", "", "id: 7", "retry: 1", "event:status"]
        block += [f"data: {line}" for line in lines] + ["", ""]
        data = end.join(block).encode()
        return [data[n : n + 1] for n in range(200)] + [data[200:-4], *(bytes([b]) for b in data[-4:])]

    with Mock(page_text) as mock:
        mock.framed = framed
        small = status("ready")
        small["traffic"]["points"] = []
        mock.status = lambda: small
        with opened(browser, mock.url) as page:
            live(page)
            texts_of(page, "version")
            wanted = [f"é–\U0001d11e {name}" for name in ("CR LF", "LF", "CR")]
            page.wait_for_function("(wanted) => wanted.every((one) => seen.has(one))", arg=wanted)
            expect(page.locator("#headline")).to_have_text("ready")
            expect(page).to_have_title("ready – exportgate")


def everything_is_shown(browser, page_text=PAGE):
    with Mock(page_text) as mock, opened(browser, mock.url) as page:
        live(page)
        text = page.locator("main")
        for part in (
            "degraded",
            "journal failing; upstream degraded",
            "https://api.snyk.io",
            "circuit breaker open; tried again in 4 s",
            "Circuit breaker: open, 4 s left",
            "Backoff: paused, 43 s left",
            "Starts paused: 1 scope",
            "1,240 of 1,620 (77 %)",
            "locked",
            "7.0 MiB",
            "exportgate.toml:12: no such key",
            "version 2024-10-15: deprecated since 2026-11-01",
        ):
            expect(text).to_contain_text(part)
        first = page.locator("#exports tbody tr").first
        expect(first).to_contain_text("7c1e0000-51f2-4c0b-9a77-0d6a4f3e2b1c")
        expect(first).to_contain_text(re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"))
        expect(page.locator("#exports tbody tr").nth(4)).to_contain_text("stale")
        expect(page.locator("#charts svg[role=img]")).to_have_count(3)
        label = page.locator("#charts svg").first.get_attribute("aria-label")
        assert re.fullmatch(r"Requests a minute, last hour: [\d,]+ in all; .* at most \d+ in a minute\.", label), label
        page.locator("#minutes summary").click()
        expect(page.locator("#minutes-table tbody tr")).to_have_count(60)
        meters = page.locator("#credentials meter")
        expect(meters).to_have_count(6)
        assert meters.nth(1).evaluate("m => [m.value, m.max]") == [1240, 1620]


def countdown_goes_on(browser, page_text=PAGE):
    with Mock(page_text) as mock, opened(browser, mock.url) as page:
        live(page)
        left = page.locator("#exports time[data-kind=fresh]").first
        seen = {left.text_content()}
        # Only the clock of the page moves it: no list is fetched any more.
        mock.instead["/api/exports"] = (503, {"error": {"code": "busy", "title": "Busy", "detail": "later"}})
        for _ in range(2):
            page.wait_for_function(
                "(seen) => !seen.includes(document.querySelector('#exports time[data-kind=fresh]').textContent)",
                arg=list(seen),
            )
            seen.add(left.text_content())
        expect(page.locator("#stored-problem")).to_have_text("Busy: later (busy, status 503)")


def token_flow(browser, page_text=PAGE):
    with Mock(page_text, token=TOKEN) as mock, opened(browser, mock.url) as page:
        field = page.get_by_label("Admin token", exact=True)
        expect(field).to_be_focused()
        assert field.get_attribute("type") == "password" and field.get_attribute("autocomplete") == "off"
        expect(page.locator("#stored")).to_be_hidden()
        expect(page.locator("#forget")).to_be_hidden()
        axe(page, "token form")
        field.fill("wrong")
        field.press("Enter")
        expect(page.locator("#token-problem")).to_contain_text("No valid token: send the token of admin.token_file")
        field.fill("größer")
        field.press("Enter")
        expect(page.locator("#token-problem")).to_contain_text("only visible ASCII")
        field.fill(TOKEN)
        field.press("Enter")
        live(page)
        expect(page.locator("#exports tbody tr")).to_have_count(6)
        expect(page.locator("#locked")).to_be_hidden()
        assert field.input_value() == ""
        page.reload()
        live(page)
        kept = page.evaluate("[Object.values({...sessionStorage}), localStorage.length, document.cookie, location.href]")
        assert kept == [[TOKEN], 0, "", mock.url + "/"], kept
        assert f"Bearer {TOKEN}" in mock.authorizations
        assert not [path for _, path in mock.seen if TOKEN in path]
        # A token that ends to be right while the page is open.
        mock.token = "another"
        expect(field).to_be_focused()
        expect(page.locator("#stored")).to_be_hidden()
        mock.token = TOKEN
        field.fill(TOKEN)
        field.press("Enter")
        live(page)
        page.get_by_role("button", name="Forget token").click()
        expect(field).to_be_focused()
        left = page.evaluate("[sessionStorage.length, document.body.textContent.includes('7c1e0000')]")
        assert left == [0, False], left


def connection_lost_and_back(browser, page_text=PAGE):
    with Mock(page_text) as mock, opened(browser, mock.url) as page:
        live(page)
        announcements(page)
        mock.down.set()
        expect(page.locator("#connection")).to_have_text(re.compile(r"^lost, trying again in \d+ s$"))
        expect(page.locator("#trouble")).to_contain_text("The figures below are out of date.")
        # The pauses grow: 1 s, 2 s, 4 s.
        expect(page.locator("#connection")).to_have_text("lost, trying again in 4 s")
        expect(page.locator("#trouble")).to_contain_text("Too many listen: close another page")
        axe(page, "lost")
        screenshot(page, "lost")
        mock.down.clear()
        page.get_by_role("button", name="Try now").click()
        live(page)
        expect(page.locator("#trouble")).to_be_hidden()
        expect(page.locator("#retry")).to_be_hidden()
        said = page.evaluate("said")
        assert said == ["The connection to the gateway is lost", "The connection to the gateway is back"], said


def silence_is_a_loss(browser, page_text=PAGE):
    with Mock(page_text) as mock, opened(browser, "about:blank") as page:
        page.clock.install()
        page.goto(mock.url)
        live(page)
        texts_of(page, "connection")
        mock.silent.set()
        page.clock.run_for(13_000)
        # By now it may have begun to connect again; that must be the second thing that it does.
        page.wait_for_function("() => [...seen][0]?.startsWith('lost, trying again in')")


def live_without_reload(browser, page_text=PAGE):
    """What changes appears, and takes away neither focus nor selection; screen readers hear of states alone."""
    with Mock(page_text) as mock, opened(browser, mock.url) as page:
        live(page)
        announcements(page)
        button = page.get_by_role("button", name="Purge 7c1e0002")
        button.focus()
        mock.exports = [export(9, fresh_for_s=60), *mock.exports]
        mock.status = lambda: status("ready")
        expect(page.locator("#exports tbody tr")).to_have_count(7)
        expect(page.locator("#exports tbody tr").first).to_contain_text("7c1e0009")
        expect(button).to_be_focused()
        expect(page.locator("#headline")).to_have_text("ready")
        expect(page.locator("#no-drift")).to_be_visible()
        page.wait_for_function("() => said.length > 0")
        assert page.evaluate("said") == ["The gateway is ready. All 6 parts are ok."], page.evaluate("said")


def errors_are_told(browser, page_text=PAGE):
    refused = {"error": {"code": "bad_since", "title": "since is no time", "detail": "write 2h or RFC 3339 " + MARKUP[0]}}
    with Mock(page_text) as mock, opened(browser, mock.url) as page:
        live(page)
        mock.instead["/api/requests"] = (400, refused)
        page.get_by_label("Since").fill("nonsense")
        page.get_by_role("button", name="Search", exact=True).click()
        expect(page.locator("#search-problem")).to_have_text(
            f"since is no time: write 2h or RFC 3339 {MARKUP[0]} (bad_since, status 400)"
        )
        assert "since=nonsense" in mock.asked("GET", "/api/requests")[0]
        mock.instead["/api/requests"] = (500, b"<h1>no JSON</h1>", "text/html")
        page.get_by_role("button", name="Search", exact=True).click()
        expect(page.locator("#search-problem")).to_have_text("The gateway refused this (status 500)")
        target = f"/api/exports/{ORG}/7c1e0000-51f2-4c0b-9a77-0d6a4f3e2b1c"
        mock.instead[target] = (503, {"error": {"code": "stopping", "title": "It stops", "detail": "ask the next one"}})
        page.get_by_role("button", name="Purge 7c1e0000").click()
        page.get_by_role("button", name="Purge", exact=True).click()
        expect(page.locator("#confirm-problem")).to_have_text("It stops: ask the next one (stopping, status 503)")
        axe(page, "errors")
        del mock.instead[target]
        page.get_by_role("button", name="Purge", exact=True).click()
        expect(page.locator("#confirm")).to_be_hidden()
        expect(page.locator("#exports tbody tr")).to_have_count(5)
        assert page.url == mock.url + "/"


def search_sends_what_is_asked(browser, page_text=PAGE):
    with Mock(page_text) as mock, opened(browser, mock.url) as page:
        live(page)
        for label, value in (
            ("Any id", "a&b=c"),
            ("Export", "exp 1"),
            ("Client", "ci"),
            ("Status", "5xx"),
            ("Since", "2h"),
        ):
            page.locator("#search").get_by_label(re.compile(f"^{label}")).fill(value)
        page.locator("#q-kind").select_option("group")
        page.locator("#q-scope").fill("g#1")
        searched(page)
        path = mock.asked("GET", "/api/requests")[0]
        assert path == "/api/requests?id=a%26b%3Dc&export=exp+1&group=g%231&client=ci&status=5xx&since=2h", path
        expect(page.locator("#rows tbody tr").nth(1)).to_contain_text("connection_timeout")
        expect(page.locator("#rows tbody tr").nth(1)).to_contain_text("as sent; none was returned")
        assert page.url == mock.url + "/"
        page.get_by_role("button", name="Clear").click()
        expect(page.locator("#found")).to_be_hidden()
        assert page.locator("#q-id").input_value() == ""


def clipboard_refused(browser, page_text=PAGE):
    # As on a page without TLS from another machine, and as where the person said no.
    absent = "Object.defineProperty(navigator, 'clipboard', {value: undefined});"
    for init in (absent, ""):
        with Mock(page_text) as mock, opened(browser, mock.url, init=init) as page:
            session = page.context.new_cdp_session(page)
            if not init:
                context = session.send("Target.getTargetInfo")["targetInfo"]["browserContextId"]
                for name in ("clipboard-write", "clipboard-read"):
                    session.send(
                        "Browser.setPermission",
                        {"permission": {"name": name}, "setting": "denied", "browserContextId": context},
                    )
            live(page)
            searched(page)
            page.get_by_role("button", name="Copy block").click()
            area = page.locator("#block")
            expect(area).to_be_visible()
            expect(area).to_be_focused()
            chosen = area.evaluate("a => [a.value, a.value.slice(a.selectionStart, a.selectionEnd), a.readOnly]")
            assert chosen == [mock.support, mock.support, True], chosen
            axe(page, "by hand")


def dots_purge_nothing_else(browser, page_text=PAGE):
    """`/api/exports/../exports` would be the path that purges everything."""
    with Mock(page_text) as mock:
        mock.exports = [
            export(0, scope_id="..", export_id="exports"),
            export(1, scope_id="x", export_id=".."),
            export(2, scope_id="a/b", export_id="?#%2e"),
            export(3, scope_id="\ud800"),
        ]
        with opened(browser, mock.url) as page:
            live(page)
            for n in (0, 1, 3):
                page.locator("#exports tbody button").nth(n).click()
                page.locator("#confirm-yes").click()
                expect(page.locator("#confirm-problem")).to_contain_text("cannot be part of a path")
                page.keyboard.press("Escape")
            assert not mock.asked("DELETE", ""), mock.asked("DELETE", "")
            page.locator("#exports tbody button").nth(2).click()
            page.locator("#confirm-yes").click()
            expect(page.locator("#exports tbody tr")).to_have_count(3)
            assert mock.asked("DELETE", "") == ["/api/exports/a%2Fb/%3F%23%252e"], mock.asked("DELETE", "")


def purge_asks_first(browser, page_text=PAGE):
    with Mock(page_text) as mock, opened(browser, mock.url) as page:
        live(page)
        opener = page.get_by_role("button", name="Purge 7c1e0001")
        opener.focus()
        page.keyboard.press("Enter")
        expect(page.get_by_role("button", name="Cancel")).to_be_focused()
        page.keyboard.press("Escape")
        expect(page.locator("#confirm")).to_be_hidden()
        expect(opener).to_be_focused()
        assert not mock.asked("DELETE", "")
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        expect(page.get_by_role("button", name="Purge", exact=True)).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.locator("#exports tbody tr")).to_have_count(5)
        # The row is gone, and its button with it.
        expect(page.locator("#stored-title")).to_be_focused()
        page.get_by_role("button", name="Purge all").click()
        page.get_by_role("button", name="Purge", exact=True).click()
        expect(page.locator("#stored-empty")).to_contain_text("The cache is empty")
        assert mock.asked("DELETE", "")[1:] == ["/api/exports"]


def filter_box(browser, page_text=PAGE):
    with Mock(page_text) as mock, opened(browser, mock.url) as page:
        live(page)
        box = page.get_by_label("Filter the stored exports")
        box.fill("7C1E0003")
        expect(page.locator("#exports tbody tr")).to_have_count(1)
        expect(page.locator("#stored-count")).to_have_text("6; 1 match")
        box.fill("nothing like this")
        expect(page.locator("#exports tbody tr")).to_have_count(0)
        expect(page.locator("#stored-empty")).to_be_visible()
        box.fill("")
        expect(page.locator("#exports tbody tr")).to_have_count(6)


def keyboard_and_address(browser, page_text=PAGE):
    """The skip link comes first and is then seen; links within the page move focus and leave the address alone."""
    with Mock(page_text) as mock, opened(browser, mock.url) as page:
        live(page)
        page.keyboard.press("Tab")
        skip = page.locator(".skip")
        expect(skip).to_be_focused()
        page.wait_for_function("() => document.querySelector('.skip').getBoundingClientRect().top >= 0")
        page.keyboard.press("Enter")
        expect(page.locator("main")).to_be_focused()
        page.get_by_role("link", name="Request IDs").press("Enter")
        expect(page.locator("#requests-title")).to_be_focused()
        assert page.url == mock.url + "/"
        # Each stop of the Tab key shows where it is.
        for _ in range(40):
            page.keyboard.press("Tab")
            ring = page.evaluate("[document.activeElement.tagName, getComputedStyle(document.activeElement).outlineStyle]")
            if ring[0] == "BODY":
                break
            assert ring[1] != "none", ring


def looks(browser, page_text=PAGE):
    """axe-core finds nothing in any scheme and width, the dialog and the results included."""
    for scheme in ("light", "dark"):
        for size, viewport in (("wide", WIDE), ("middle", {"width": 820, "height": 900}), ("narrow", NARROW)):
            # When all is well there is less to see.
            for state in ("degraded", "ready") if viewport is WIDE else ("degraded",):
                with Mock(page_text) as mock:
                    mock.status = lambda state=state: status(state)
                    with opened(browser, mock.url, viewport, scheme, reduced_motion="reduce") as page:
                        live(page)
                        searched(page)
                        if state == "ready":
                            page.locator("#minutes summary").click()
                        fits(page)
                        axe(page, f"{scheme}, {size}, {state}")
                        screenshot(page, f"mock-{state}-{scheme}-{size}")
                        page.locator("#exports button").first.click()
                        axe(page, f"dialog, {scheme}, {size}", "#confirm")
                        screenshot(page, f"mock-dialog-{scheme}-{size}", whole=False)


def caught(test, before, after):
    """A test that the page fails once `before` in it is `after`: a test that cannot fail is worth nothing."""

    def run(browser):
        assert PAGE.count(before) >= 1, f"the page has no {before!r} any more"
        broken = PAGE.replace(before, after)
        # Longer than the page takes for anything: lists come every 4 s.
        patience, browser.patience = browser.patience, 6000
        harness.takes_screenshots = False
        try:
            if test is hostile:
                hostile(broken)(browser)
            else:
                test(browser, page_text=broken)
        except Exception as error:
            # A mistake in the test itself is no finding.
            assert isinstance(error, (AssertionError, PlaywrightError)), error
            return str(error).splitlines()[0]
        finally:
            browser.patience = patience
            harness.takes_screenshots = True
        raise AssertionError(f"a page with {after!r} passes")

    return run


TESTS = [
    ("one file, nothing from outside", page_is_one_file),
    ("all figures are shown", everything_is_shown),
    ("hostile values in every field", hostile(PAGE)),
    ("events cut anywhere", events_cut_anywhere),
    ("live, quiet, focus stays", live_without_reload),
    ("countdown", countdown_goes_on),
    ("token", token_flow),
    ("connection lost and back", connection_lost_and_back),
    ("silence is a loss", silence_is_a_loss),
    ("errors with their detail", errors_are_told),
    ("search conditions", search_sends_what_is_asked),
    ("clipboard refused", clipboard_refused),
    ("purge asks first", purge_asks_first),
    ("dots in ids", dots_purge_nothing_else),
    ("filter", filter_box),
    ("keyboard, address", keyboard_and_address),
    ("axe-core, light and dark, wide to narrow", looks),
]

BROKEN = [
    ("markup is let in", hostile, "span.append(...(index ? [el('wbr'), part] : [part]))", "span.innerHTML += part"),
    ("controls are let in", hostile, r"[\p{Cc}\p{Cf}", r"[\p{Lt}"),
    ("long words do not break", hostile, "overflow-wrap: anywhere", "overflow-wrap: normal"),
    ("a style attribute", hostile, '<p id="reason"', '<p style="color:red" id="reason"'),
    ("a handler in the markup", hostile, '<p id="reason"', '<p onclick="1" id="reason"'),
    ("an inline handler", page_is_one_file, '<p id="reason"', '<p onclick="1" id="reason"'),
    ("CR is no line end", events_cut_anywhere, r"/\r\n|\n|\r(?!$)/", r"/\r\n|\n/"),
    ("bytes are no characters", events_cut_anywhere, "new TextDecoderStream()", "new TextDecoderStream('latin1')"),
    ("rows are made anew", live_without_reload, "keptChildren.get(parent) ||", "parent.replaceChildren() ||"),
    ("every second is said", live_without_reload, "function tick() {", "function tick() { announce(String(Date.now()));"),
    ("time stands still", countdown_goes_on, "setInterval(tick, 1000)", "void 0"),
    ("the token is kept for good", token_flow, "sessionStorage", "localStorage"),
    ("a wrong token is kept", token_flow, "  keepToken('');\n  stopEvents();", ""),
    ("no second try", connection_lost_and_back, "await waiting;", "await new Promise(() => {});"),
    ("no watch over silence", silence_is_a_loss, "> SILENCE_MS", "> Infinity"),
    ("details are lost", errors_are_told, "`: ${plain(told.detail, 600)}`", "''"),
    ("no fallback", clipboard_refused, "offerByHand(block);", ""),
    ("no question", purge_asks_first, "$('confirm').showModal()", "$('confirm-yes').click()"),
    ("focus is lost", purge_asks_first, "$('stored-title').focus()", "void 0"),
    ("dots pass", dots_purge_nothing_else, r"/^\.{0,2}$/.test(value)", "false"),
    ("no focus ring", keyboard_and_address, ":focus-visible { outline: 2px", ":focus-visible { outline: 0 none; --x: 2px"),
    ("links write the address", keyboard_and_address, "    event.preventDefault();\n    $(link", "    $(link"),
    ("too little contrast", looks, "--muted: #55606d", "--muted: #8d96a0"),
    ("a field without a name", looks, '<label for="q-client">Client</label>', ""),
]

if __name__ == "__main__":
    only = sys.argv[1] if len(sys.argv) > 1 else ""
    tests = TESTS + [(f"broken page is caught: {name}", caught(*rest)) for name, *rest in BROKEN]
    harness.run("page", [(name, test) for name, test in tests if only in name])
