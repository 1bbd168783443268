"""Part (b): the page as the real program serves it, in front of `exportgate fake-snyk`.

    check_program.py PROGRAM [NAME]
"""

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import harness
from harness import NARROW, WIDE, axe, expect, fits, live, opened, screenshot, searched
from mock import policy

PROGRAM = sys.argv[1] if len(sys.argv) > 1 else ""
VERSION = "2024-10-15"
ORG = "825e79b7-0073-44c3-a5ea-e0aa8a3dbf38"
TOKEN = "a-token-for-this-test-alone-0123456789"


def first(log, pattern):
    """The first match of `pattern` in a log, once it is there."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        found = re.search(pattern, log.read_text())
        if found:
            return found.group(1)
        time.sleep(0.05)
    raise AssertionError(f"{pattern} is not in {log}: {log.read_text()}")


class Running:
    """A fake Snyk and a gateway with its admin listener, in a directory of their own."""

    def __init__(self, scratch, token=None):
        self.scratch = Path(scratch)
        self.log = self.scratch / "gateway.log"
        fake_log = self.scratch / "fake.log"
        self.fake = self.start(fake_log, "fake-snyk", "--plain", "--listen", "127.0.0.1:0", "--polls", "1")
        self.upstream = first(fake_log, r"(http://127\.0\.0\.1:\d+)")
        settings = {
            "listen": ["127.0.0.1:0"],
            "upstream.url": self.upstream,
            "journal.path": str(self.scratch / "journal.db"),
            "admin.listen": "127.0.0.1:0",
        }
        if token:
            file = self.scratch / "admin_token"
            file.write_text(token)
            file.chmod(0o600)
            settings["admin.token_file"] = str(file)
        self.settings = settings
        self.gateway = None

    def start(self, log, *arguments):
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.scratch), "SNYK_TOKEN": "any-token-for-the-fake"}
        environment["EXPORTGATE_LOG_FORMAT"] = "json"
        with log.open("w") as out:
            return subprocess.Popen([PROGRAM, *arguments], stdout=out, stderr=out, env=environment)

    def serve(self):
        configuration = self.scratch / "exportgate.toml"
        # A JSON string or list of strings is one of TOML too.
        configuration.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in self.settings.items()))
        self.gateway = self.start(self.log, "serve", "--config", str(configuration))
        listening = r'"message":"{}[^"]*","server.address":"(127\.0\.0\.1:\d+)"'
        self.data = "http://" + first(self.log, listening.format("listening"))
        admin = first(self.log, listening.format("admin listener"))
        self.admin = "http://" + admin
        # Started again, it is to be found where it was.
        self.settings["admin.listen"] = admin

    def stop(self):
        self.gateway.terminate()
        try:
            self.gateway.wait(timeout=40)
        except subprocess.TimeoutExpired:
            self.gateway.kill()
            self.gateway.wait()
            raise

    def close(self):
        # The fake is not what is tested.
        self.fake.kill()
        self.fake.wait()
        if self.gateway and self.gateway.poll() is None:
            self.stop()

    def ask(self, path, method="GET", body=None):
        """A client's request: status, header fields, JSON."""
        request = urllib.request.Request(f"{self.data}{path}?version={VERSION}", method=method, data=body)
        request.add_header("Content-Type", "application/vnd.api+json")
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.headers, json.load(answer)

    def new_export(self):
        """Starts an export and reads it until it is stored: its id, and the fields of the answer that was."""
        body = b'{"data":{"type":"resource","attributes":{"filters":{"updated":{"from":"2026-01-01T00:00:00Z"}}}}}'
        _, _, started = self.ask(f"/orgs/{ORG}/export", "POST", body)
        export_id = started["data"]["id"]
        self.read(export_id)
        fields = self.read(export_id)
        assert "stored" in fields["Cache-Status"], fields["Cache-Status"]
        return export_id, fields

    def read(self, export_id):
        return self.ask(f"/orgs/{ORG}/export/{export_id}")[1]

    def is_hit(self, export_id):
        return "; hit" in self.read(export_id)["Cache-Status"]


@contextlib.contextmanager
def running(**options):
    with tempfile.TemporaryDirectory() as scratch:
        program = Running(scratch, **options)
        try:
            program.serve()
            yield program
            assert program.gateway.poll() is None, "the gateway has ended by itself"
        finally:
            program.close()
        assert "panicked" not in program.log.read_text(), program.log.read_text()


def rows_of(page, export_id):
    return page.locator("#exports tbody tr").filter(has_text=export_id)


def served_as_it_is(_browser):
    """The page is the file, with a policy that lets in nothing but its own style and script."""
    with running() as program:
        with urllib.request.urlopen(program.admin + "/", timeout=10) as answer:
            assert answer.read().decode() == harness.PAGE.read_text(), "the program was built with another page"
            sent = answer.headers["Content-Security-Policy"]
        parts = {part.strip() for part in sent.split(";")}
        missing = {part.strip() for part in policy(harness.PAGE.read_text()).split(";")} - parts
        assert not missing, f"{missing} not in {sent}"


def state_is_shown(browser):
    with running() as program, opened(browser, program.admin) as page:
        live(page)
        expect(page.locator("#headline")).to_have_text("ready")
        expect(page.locator("#upstream")).to_have_text(program.upstream)
        expect(page.locator("#version")).to_have_text(re.compile(r"^\d+\.\d+\.\d+"))
        expect(page.locator("#parts tbody tr")).not_to_have_count(0)
        expect(page.locator("#parts")).to_contain_text(program.data.removeprefix("http://"))
        expect(page.locator("#credentials meter")).to_have_count(3)
        expect(page.locator("#stored-empty")).to_contain_text("The cache is empty")
        expect(page.locator("#trouble")).to_be_hidden()
        assert page.evaluate("[sessionStorage.length, localStorage.length]") == [0, 0]


def live_update(browser):
    with running() as program, opened(browser, program.admin) as page:
        live(page)
        page.evaluate("window.mark = 'not reloaded'")
        export_id, _ = program.new_export()
        expect(rows_of(page, export_id)).to_have_count(1)
        assert program.is_hit(export_id)
        hits = rows_of(page, export_id).locator("td[data-label=Hits]")
        expect(hits).to_have_text("1")
        figures = page.locator("#figures")
        expect(figures).to_contain_text(re.compile(r"Requests since start[1-9]"))
        expect(figures).to_contain_text("1 hit")
        # A start, a read that was pending, the results.
        expect(page.locator("#charts svg").nth(2)).to_have_attribute("aria-label", re.compile(r": 3 in all; 3 answered"))
        expect(page.locator("#credentials")).to_contain_text(re.compile(r"[1-9]\d* of 97,200"))
        assert page.evaluate("window.mark") == "not reloaded"


def search(browser):
    with running() as program, opened(browser, program.admin) as page:
        export_id, fields = program.new_export()
        snyk_id = fields["snyk-request-id"]
        live(page)
        rows = page.locator("#rows tbody tr")
        for field, value, count in (
            ("#q-id", snyk_id, 1),
            ("#q-id", fields["Exportgate-Request-Id"], 1),
            ("#q-export", export_id, 3),
            ("#q-scope", ORG, 3),
            ("#q-status", "404", 0),
            ("#q-since", "1h", 3),
            ("#q-client", "nobody", 0),
        ):
            page.locator("#search button[type=reset]").click()
            page.locator(field).fill(value)
            page.locator(field).press("Enter")
            expect(page.locator("#found-count"), f"{field} {value}").to_contain_text(f"{count} request")
            expect(rows).to_have_count(count)
            if count == 1:
                expect(rows).to_contain_text(snyk_id)
        page.locator("#search button[type=reset]").click()
        page.locator("#q-since").fill("the day before")
        page.locator("#q-since").press("Enter")
        expect(page.locator("#search-problem")).to_contain_text(re.compile(r".+: .+ \(.*status 400\)"))
        assert page.url == program.admin + "/"


def copy(browser):
    permissions = ["clipboard-read", "clipboard-write"]
    with running() as program, opened(browser, program.admin, permissions=permissions) as page:
        _, fields = program.new_export()
        live(page)
        page.locator("#q-id").fill(fields["snyk-request-id"])
        searched(page)
        page.get_by_role("button", name="Copy block").click()
        expect(page.locator("#copied")).to_have_text(re.compile(r"^Copied: \d+ lines$"))
        expect(page.locator("#by-hand")).to_be_hidden()
        block = page.evaluate("navigator.clipboard.readText()")
        assert fields["snyk-request-id"] in block and ORG in block, block
        assert "any-token-for-the-fake" not in block


def purge(browser):
    with running() as program, opened(browser, program.admin) as page:
        one, _ = program.new_export()
        two, _ = program.new_export()
        live(page)
        expect(rows_of(page, one)).to_have_count(1)
        rows_of(page, one).get_by_role("button").click()
        expect(page.locator("#confirm")).to_contain_text(one)
        page.keyboard.press("Escape")
        expect(page.locator("#confirm")).to_be_hidden()
        assert program.is_hit(one), "Escape purged it"
        rows_of(page, one).get_by_role("button").click()
        page.locator("#confirm-yes").click()
        expect(rows_of(page, one)).to_have_count(0)
        expect(rows_of(page, two)).to_have_count(1)
        assert not program.is_hit(one), "it was not purged"
        assert program.is_hit(one) and program.is_hit(two)
        page.get_by_role("button", name="Purge all").click()
        page.locator("#confirm-yes").click()
        expect(page.locator("#stored-empty")).to_be_visible()
        assert not program.is_hit(one) and not program.is_hit(two), "not all were purged"


def tab_to(page, target):
    """Goes on with the Tab key until the focus is there."""
    for _ in range(80):
        page.keyboard.press("Tab")
        if target.evaluate("node => node === document.activeElement"):
            return
    raise AssertionError(f"the Tab key does not reach {target}")


def keyboard_alone(browser):
    with running() as program, opened(browser, program.admin) as page:
        export_id, fields = program.new_export()
        live(page)
        expect(rows_of(page, export_id)).to_have_count(1)
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        expect(page.locator("main")).to_be_focused()
        tab_to(page, page.locator("#minutes summary"))
        page.keyboard.press("Enter")
        expect(page.locator("#minutes-table tbody tr").first).to_be_visible()
        tab_to(page, page.locator("#filter"))
        page.keyboard.type(export_id)
        expect(rows_of(page, export_id)).to_have_count(1)
        button = rows_of(page, export_id).get_by_role("button")
        tab_to(page, button)
        page.keyboard.press("Enter")
        expect(page.locator("#confirm-no")).to_be_focused()
        page.keyboard.press("Escape")
        expect(button).to_be_focused()
        page.keyboard.press("Space")
        page.keyboard.press("Tab")
        expect(page.locator("#confirm-yes")).to_be_focused()
        page.keyboard.press("Enter")
        expect(rows_of(page, export_id)).to_have_count(0)
        expect(page.locator("#stored-title")).to_be_focused()
        tab_to(page, page.locator("#q-id"))
        page.keyboard.type(fields["snyk-request-id"])
        page.keyboard.press("Enter")
        expect(page.locator("#rows tbody tr")).to_have_count(1)
        tab_to(page, page.locator("#copy"))


def token_flow(browser):
    with running(token=TOKEN) as program, opened(browser, program.admin) as page:
        field = page.get_by_label("Admin token", exact=True)
        expect(field).to_be_focused()
        field.fill("not the right one".replace(" ", "-"))
        field.press("Enter")
        expect(page.locator("#token-problem")).to_contain_text("status 401")
        field.fill(TOKEN)
        field.press("Enter")
        live(page)
        expect(page.locator("#headline")).to_have_text("ready")
        page.get_by_role("button", name="Forget token").click()
        expect(field).to_be_focused()
        assert page.evaluate("sessionStorage.length") == 0
        assert TOKEN not in program.log.read_text(), "the token is in the log"


def stopped_and_started(browser):
    with running() as program, opened(browser, program.admin) as page:
        live(page)
        program.stop()
        expect(page.locator("#connection")).to_have_text(re.compile(r"^lost, trying again in \d+ s$"))
        expect(page.locator("#trouble")).to_contain_text("The gateway cannot be reached")
        program.serve()
        live(page)
        expect(page.locator("#trouble")).to_be_hidden()
        expect(page.locator("#headline")).to_have_text("ready")


def looks(browser):
    """Screenshots, and axe-core finds nothing."""
    with running() as program:
        for _ in range(3):
            program.is_hit(program.new_export()[0])
        with contextlib.suppress(urllib.error.HTTPError):
            program.ask("/orgs/none")
        for scheme in ("light", "dark"):
            for size, viewport in (("wide", WIDE), ("narrow", NARROW)):
                with opened(browser, program.admin, viewport, scheme, reduced_motion="reduce") as page:
                    live(page)
                    expect(page.locator("#exports tbody tr")).to_have_count(3)
                    searched(page)
                    expect(page.locator("#rows tbody tr")).not_to_have_count(0)
                    fits(page)
                    axe(page, f"{scheme}, {size}")
                    screenshot(page, f"program-{scheme}-{size}")
                    page.locator("#exports button").first.click()
                    expect(page.locator("#confirm")).to_be_visible()
                    axe(page, f"dialog, {scheme}, {size}", "#confirm")
                    screenshot(page, f"program-dialog-{scheme}-{size}", whole=False)


TESTS = [
    ("the page is the file, with its policy", served_as_it_is),
    ("state", state_is_shown),
    ("an export appears without reload", live_update),
    ("search", search),
    ("copy", copy),
    ("purge, confirmed, and really", purge),
    ("keyboard alone", keyboard_alone),
    ("token", token_flow),
    ("stopped and started", stopped_and_started),
    ("axe-core and screenshots", looks),
]

if __name__ == "__main__":
    if not os.access(PROGRAM, os.X_OK):
        sys.exit(f"check_program.py: {PROGRAM or 'PROGRAM'} cannot be run")
    only = sys.argv[2] if len(sys.argv) > 2 else ""
    harness.run("program", [(name, test) for name, test in TESTS if only in name])
