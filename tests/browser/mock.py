"""A stand-in for the admin listener: serves the page with its policy, and an API that says what a test wants.

It can do what the program never would, such as have markup and bidirectional controls in every field.
"""

import base64
import hashlib
import json
import re
import threading
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

TEXT = "text/plain; charset=utf-8"
JSON = "application/json"


def policy(page):
    """The Content-Security-Policy that the program sends: its page's own style and script, by hash, and no more."""

    def digest(tag):
        found = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        assert len(found) == 1, f"{len(found)} <{tag}> elements"
        return "'sha256-" + base64.b64encode(hashlib.sha256(found[0].encode()).digest()).decode() + "'"

    return (
        f"default-src 'none'; style-src {digest('style')}; script-src {digest('script')}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
        "trusted-types 'none'"
    )


def at(seconds_ago=0):
    """A time as the API writes it."""
    then = datetime.now(timezone.utc) - timedelta(seconds=seconds_ago)
    return then.strftime("%Y-%m-%dT%H:%M:%SZ")


ORG = "825e79b7-0073-44c3-a5ea-e0aa8a3dbf38"
GROUP = "3b1f0c52-9d4e-4a8f-8a47-6f2f7d1c9a10"
SUPPORT = "snyk-request-id: 11111111-2222-4333-8444-555555555555\nsent: 2026-11-24T09:00:00Z\nstatus: 502\n"


def export(number, operation="results", **fields):
    return {
        "operation": operation,
        "scope_kind": "group" if number % 3 == 2 else "org",
        "scope_id": GROUP if number % 3 == 2 else ORG,
        "export_id": f"7c1e{number:04x}-51f2-4c0b-9a77-0d6a4f3e2b1c",
        "query": "version=2024-10-15",
        "credential": "default",
        "stored": at(70 * number + 12),
        "age_s": 70 * number + 12,
        "fresh_for_s": 2600 - 700 * number,
        "links_end": at(70 * number - 3500) if number % 4 else None,
        "hits": 3 * number,
        "bytes": 3800 * (number + 1) ** 3,
    } | fields


def row(number, **fields):
    failed = number % 4 == 1
    return {
        "started": at(97 * number + 5),
        "latency_ms": 182.4 + 31 * number,
        "operation": ["results", "job-status", "start"][number % 3],
        "method": "POST" if number % 3 == 2 else "GET",
        "scope_kind": "org",
        "scope_id": ORG,
        "export_id": None if number % 3 == 2 else f"7c1e{number:04x}-51f2-4c0b-9a77-0d6a4f3e2b1c",
        "status": [200, None, 202, 429, 404][number % 5],
        "export_status": [None, None, "STARTED", None, None][number % 5],
        "error": "connection_timeout" if number % 5 == 1 else None,
        "received_id": None if number % 5 == 1 else f"6f0d{number:04x}-aaaa-4bbb-8ccc-1234567890ab",
        "sent_id": f"6f0d{number:04x}-aaaa-4bbb-8ccc-1234567890ab",
        "request_id": f"0199{number:04x}-dddd-7eee-8fff-abcdefabcdef",
        "client": ["dashboard", "ci", "local"][number % 3],
        "clients": 1 + number % 3,
        "upstream": "https://api.snyk.io",
        "credential": "default",
        "bytes": None if failed else 3800,
        "version_requested": "2024-10-15",
        "version_served": "2024-10-15",
        "lifecycle": None,
        "deprecation": None,
        "sunset": None,
        "try": 1 + number % 2,
        "queued_ms": 240.0 * (number % 2),
        "waited_for": "budget" if number % 2 else None,
    } | fields


def points(count=60):
    """An hour like many: a quiet start, a peak, some errors."""
    wave = [abs((n * 37) % 23 - 9) for n in range(count)]
    return [
        {
            "at": at(60 * (count - 1 - n)),
            "hit": w * 3 if n % 11 else 0,
            "stale": 2 if n in (40, 41) else 0,
            "miss": w // 2,
            "collapsed": w if n % 5 == 0 else 0,
            "waited": 0,
            "uncached": n % 2 if w else 0,
            "denied": 3 if n == 22 else 0,
            "failed": 1 if n in (40, 41) else 0,
            "client_left": 0,
            "upstream": w // 2 + n % 2,
            "upstream_errors": 2 if n in (39, 40, 41) else 0,
        }
        for n, w in enumerate(wave)
    ]


def status(state="degraded"):
    def windows(*used):
        limits = {1: 160, 60: 1620, 3600: 97200}
        return [{"seconds": s, "limit": limit, "used": u} for (s, limit), u in zip(limits.items(), used)]

    ill = state == "degraded"
    return {
        "version": "0.1.0",
        "started": at(86400 + 7300),
        "now": at(),
        "uptime_s": 86400 + 7300,
        "state": state,
        "upstream": "https://api.snyk.io",
        "parts": [
            {"name": "configuration", "state": "ok", "since": at(93700), "detail": "exportgate.toml"},
            {"name": "credential default", "state": "ok", "since": at(93700), "detail": "active slot in use"},
            {"name": "credential europe", "state": "ok", "since": at(93700), "detail": "active slot in use"},
            {"name": "listeners", "state": "ok", "since": at(93700), "detail": "127.0.0.1:7080, [::1]:7080"},
            {
                "name": "journal",
                "state": "failing" if ill else "ok",
                "since": at(190),
                "detail": "records cannot be written; see the log" if ill else "100,321 records",
            },
            {
                "name": "upstream",
                "state": "degraded" if ill else "ok",
                "since": at(65),
                "detail": "circuit breaker open; tried again in 4 s" if ill else "answers",
            },
        ],
        "totals": {"hit": 10231, "stale": 12, "miss": 1305, "collapsed": 873, "waited": 60, "uncached": 45, "denied": 31, "failed": 2, "client_left": 3},
        "traffic": {"step_s": 60, "points": points()},
        "cache": {"entries": 6, "bytes": 7340032, "max_bytes": 268435456},
        "queue": {"waiting": 3, "followers": 1, "waits": 30, "pollers": 1},
        "budget": {
            "credentials": [
                {
                    "name": "default",
                    "waiting": 3,
                    "running": 7,
                    "windows": windows(3, 1240, 96100),
                    "backoff": {"state": "paused" if ill else "none", "seconds_left": 43 if ill else 0},
                    "paused_starts": [{"scope": f"org {ORG}", "seconds_left": 1830}] if ill else [],
                    "slots": [
                        {"name": "active", "state": "in_use", "age_s": 5400, "expires_in_s": 1800},
                        {"name": "next", "state": "empty", "age_s": None, "expires_in_s": None},
                    ],
                },
                {
                    "name": "europe",
                    "waiting": 0,
                    "running": 0,
                    "windows": windows(0, 12, 310),
                    "backoff": {"state": "none", "seconds_left": 0},
                    "paused_starts": [],
                    "slots": [
                        {"name": "active", "state": "locked" if ill else "in_use", "age_s": 93000, "expires_in_s": None},
                        {"name": "next", "state": "in_use" if ill else "ready", "age_s": 320, "expires_in_s": None},
                    ],
                },
            ],
            "breaker": {"state": "open" if ill else "closed", "seconds_left": 4 if ill else 0},
        },
        "journal": {"failing": ill, "written": 100321, "dropped": 12 if ill else 0, "queued": 4},
        "connections": {"open": 14, "max": 10000},
        "named": [
            {
                "name": "open-criticals",
                "scope_kind": "org",
                "scope_id": ORG,
                "every_s": 7200,
                "export_id": ORG,
                "made": at(30000 if ill else 600),
                "age_s": 30000 if ill else 600,
                "rows": 120345,
                "stale": ill,
                "next_turn": at(-3600),
                "failed_at": at(60) if ill else None,
                "last_failure": "the export failed at Snyk (ERRORED)" if ill else None,
                "columns_changed_at": at(90000) if ill else None,
                "columns_changed": "went: SCORE; came: <b>RISK</b>" if ill else None,
            }
        ],
        "drift": [
            {
                "kind": "deprecation",
                "count": 311,
                "last": at(30),
                "detail": "version 2024-10-15: deprecated since 2026-11-01",
            },
            {"kind": "status_word", "count": 2, "last": at(4000), "detail": "data.attributes.status: PARTIAL"},
        ]
        if ill
        else [],
        "reload": {"failing": {"since": at(120), "detail": "exportgate.toml:12: no such key"} if ill else None},
    }


class Mock:
    """What a test says about the API, and what it saw."""

    def __init__(self, page, token=None):
        self.page = page
        self.policy = policy(page)
        self.token = token
        self.status = status
        self.exports = [export(n) for n in range(6)]
        self.rows = [row(n) for n in range(7)]
        self.support = SUPPORT
        # Set: each stream of events ends, and a new one is refused.
        self.down = threading.Event()
        # Set: streams stay open and say nothing, as when the network between swallows everything.
        self.silent = threading.Event()
        # What makes bytes of a status: a list, each written by itself.
        self.framed = lambda body: [f"event: status\ndata: {json.dumps(body)}\n\n".encode()]
        # Path (without its query) to (status, body) of an answer in place of the right one.
        self.instead = {}
        self.seen = []
        self.authorizations = set()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Answers,), {"mock": self}))
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def asked(self, method, part):
        return [path for verb, path in self.seen if verb == method and part in path]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.down.set()
        self.server.shutdown()
        self.server.server_close()


class Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    mock = None

    def log_message(self, *_):
        pass

    def answer(self, status, body, kind=JSON, **fields):
        data = body if isinstance(body, bytes) else (body if kind != JSON else json.dumps(body)).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Cache-Control", "no-store")
        for name, value in fields.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def problem(self, status, code, title, detail):
        self.answer(status, {"error": {"code": code, "title": title, "detail": detail}})

    def route(self):
        mock = self.mock
        target = urlsplit(self.path)
        mock.seen.append((self.command, self.path))
        mock.authorizations.add(self.headers.get("Authorization"))
        if target.path == "/":
            return self.answer(200, mock.page, "text/html; charset=utf-8", Content_Security_Policy=mock.policy)
        if mock.token is not None and self.headers.get("Authorization") != f"Bearer {mock.token}":
            return self.problem(401, "unauthorized", "No valid token", "send the token of admin.token_file")
        if target.path in mock.instead:
            return self.answer(*mock.instead[target.path])
        if target.path == "/api/events":
            return self.events()
        if target.path == "/api/exports" and self.command == "GET":
            return self.answer(200, {"total": len(mock.exports), "exports": mock.exports})
        if target.path.startswith("/api/exports") and self.command == "DELETE":
            return self.purge(target.path)
        if target.path == "/api/requests":
            if "support" in parse_qs(target.query).get("format", []):
                return self.answer(200, mock.support, TEXT)
            return self.answer(200, {"requests": mock.rows})
        return self.problem(404, "not_found", "There is nothing here", "see /api/openapi.json")

    do_GET = do_DELETE = route

    def purge(self, path):
        named = [unquote(part) for part in path.split("/")[3:]]
        keep = [e for e in self.mock.exports if named and [e["scope_id"], e["export_id"]] != named]
        purged = len(self.mock.exports) - len(keep)
        self.mock.exports = keep
        self.answer(200, {"purged": purged})

    def events(self):
        if self.mock.down.is_set():
            return self.problem(503, "too_many_listeners", "Too many listen", "close another page")
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        try:
            while not self.mock.down.is_set():
                if not self.mock.silent.is_set():
                    for piece in self.mock.framed(self.mock.status()):
                        self.wfile.write(piece)
                        self.wfile.flush()
                self.mock.down.wait(0.5)
        except OSError:
            pass
