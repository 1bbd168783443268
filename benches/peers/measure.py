"""Measures exportgate beside the proxies that people would use instead. Started by run.sh, which installs and builds
what this needs; results go to a JSON file, of which report.py makes the page and the chart.

One server runs at a time, on one core, with a fresh upstream; client and upstream have the other core. In each round
every peer has its turn, and the next round begins with another one.
"""

import argparse
import contextlib
import datetime
import http.client
import json
import os
import pathlib
import platform
import re
import resource
import shutil
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
SERVER_CORE, CLIENT_CORE = "0", "1"
TICKS = os.sysconf("SC_CLK_TCK")
RESULTS = "/rest/orgs/bench/export/"
STATUS = "/rest/orgs/bench/jobs/export/"
STARTS = "/rest/orgs/bench/export"
QUERY = "?version=2024-10-15"
ENTRIES = 100_000


def entry(number):
    """The path of a finished export."""
    return f"{RESULTS}00000000-0000-4000-8000-{number:012}{QUERY}"


# The processes


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def family(root):
    """A process and all that descend from it."""
    parents = {}
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(") ")[2].split()
            parents[int(path.parent.name)] = int(fields[1])
    found = [root]
    for parent in found:
        found += [pid for pid, of in parents.items() if of == parent]
    return found


def cpu_seconds(root):
    """User and system time of a process, its threads and all that descend from it."""
    total = 0
    for pid in family(root):
        with contextlib.suppress(OSError):
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
            total += int(fields[11]) + int(fields[12])
    return total / TICKS


def peak_memory(root):
    """The largest resident set of each of these processes, in MiB."""
    total = 0
    for pid in family(root):
        with contextlib.suppress(OSError):
            found = re.search(r"VmHWM:\s+(\d+) kB", pathlib.Path(f"/proc/{pid}/status").read_text())
            total += int(found[1]) if found else 0
    return total / 1024


class Process:
    """A server that runs until the block ends."""

    def __init__(self, command, core, port, log, environment=None):
        self.command, self.core, self.port, self.log = command, core, port, log
        self.environment = {**os.environ, **(environment or {})}

    def __enter__(self):
        begun = time.monotonic()
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                ["taskset", "-c", self.core, *map(str, self.command)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment,
            )
        while True:
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.command[0]} ended: {pathlib.Path(self.log).read_text()[-2000:]}")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return self
            if time.monotonic() > begun + 30:
                self.__exit__()
                raise RuntimeError(f"{self.command[0]} does not listen")
            time.sleep(0.02)

    @property
    def pid(self):
        return self.process.pid

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(40)
        except subprocess.TimeoutExpired:
            for pid in family(self.pid):
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            self.process.wait()


class Bench:
    """What every measurement needs: programs, certificate, directories."""

    def __init__(self, programs, scratch, quick):
        self.programs, self.scratch = programs, pathlib.Path(scratch)
        self.seconds = 2 if quick else 6
        # varnishd gives up its privileges, and must come to its files all the same.
        self.scratch.chmod(0o755)
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
             "-days", "30", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
             "-addext", "basicConstraints=critical,CA:FALSE",
             "-keyout", self.scratch / "key.pem", "-out", self.scratch / "certificate.pem"],
            check=True, capture_output=True,
        )
        made = subprocess.run([programs["exportgate"], "key", "new", "--client", "bench"],
                              check=True, capture_output=True, text=True)
        self.key = made.stdout.strip()
        digest = re.search(r"sha256:[0-9a-f]{64}", made.stdout + made.stderr)[0]
        (self.scratch / "clients.toml").write_text(
            f'[clients.bench]\nkeys = ["{digest}"]\norgs = ["*"]\noperations = ["read", "start"]\n')
        self.body = None

    def directory(self, name):
        """A fresh one."""
        path = self.scratch / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(mode=0o755)
        for file in ("certificate.pem", "key.pem", "clients.toml"):
            shutil.copy(self.scratch / file, path / file)
        both = (path / "certificate.pem").read_text() + (path / "key.pem").read_text()
        (path / "both.pem").write_text(both)
        return path


# The peers


class Peer:
    """One to be measured."""

    collapses = True
    name = version = ""
    speaks_tls = is_cache = True

    def start(self, bench, upstream, options):
        raise NotImplementedError

    def fill_in(self, bench, name, upstream, **more):
        """Its configuration with this run's ports and directories; gives the file and both ports."""
        directory = bench.directory(self.name)
        memory = pathlib.Path(tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else directory))
        memory.chmod(0o777)
        bench.memory.append(memory)
        values = {"DIR": directory, "MEMORY": memory, "PORT": free_port(), "TLS_PORT": free_port(),
                  "UPSTREAM": upstream, "CACHE": bench.cache_mib, **more}
        text = re.sub(r"@([A-Z_]+)@", lambda found: str(values.get(found[1], found[0])), (HERE / name).read_text())
        (directory / name).write_text(text)
        return directory, values


class Exportgate(Peer):
    name = "exportgate"

    def __init__(self, program):
        self.program = program
        self.version = subprocess.run([program, "--version"], capture_output=True, text=True).stdout.strip()

    def start(self, bench, upstream, options):
        clients = 'clients_file = "@DIR@/clients.toml"' if options.get("key") else ""
        directory, values = self.fill_in(
            bench, "exportgate.toml", upstream, LOG="info" if options.get("log") else "warn",
            CLIENTS=clients.replace("@DIR@", str(bench.scratch / self.name)))
        environment = {"SNYK_TOKEN": "bench-credential", "TOKIO_WORKER_THREADS": "1"}
        process = Process([self.program, "serve", "--config", directory / "exportgate.toml"], SERVER_CORE,
                          values["PORT"], directory / "log", environment)
        return process, values


class Nginx(Peer):
    name = "nginx"

    def __init__(self):
        said = subprocess.run(["nginx", "-v"], capture_output=True, text=True).stderr
        self.version = said.strip().removeprefix("nginx version: ")

    def start(self, bench, upstream, options):
        directory, values = self.fill_in(bench, "nginx.conf", upstream)
        command = ["nginx", "-c", directory / "nginx.conf", "-e", directory / "error.log"]
        return Process(command, SERVER_CORE, values["PORT"], directory / "log"), values


class Haproxy(Peer):
    name = "haproxy"
    collapses = False

    def __init__(self):
        said = subprocess.run(["haproxy", "-v"], capture_output=True, text=True).stdout
        self.version = said.split(" - ")[0]

    def start(self, bench, upstream, options):
        directory, values = self.fill_in(bench, "haproxy.cfg", upstream)
        command = ["haproxy", "-f", directory / "haproxy.cfg"]
        return Process(command, SERVER_CORE, values["PORT"], directory / "log"), values


class Varnish(Peer):
    name = "varnish"
    # Varnish leaves TLS to a program in front of it.
    speaks_tls = False

    def __init__(self):
        said = subprocess.run(["varnishd", "-V"], capture_output=True, text=True).stderr
        self.version = said.split("\n")[0].replace("varnishd ", "").strip("()").split(" revision")[0]
        tags = ["Begin", "End", "Link", "SessOpen", "SessClose", "Hit", "HitMiss", "HitPass", "TTL", "Storage", "Length",
                "Timestamp", "Filters", "ReqStart", "ReqAcct", "BereqAcct", "Fetch_Body", "VCL_call", "VCL_return",
                "VCL_use", "BackendOpen", "BackendClose", "BackendStart"]
        tags += [kind + part for kind in ("Req", "Resp", "Bereq", "Beresp")
                 for part in ("Method", "URL", "Protocol", "Status", "Reason", "Header", "Unset", "Lost")]
        self.mask = ",".join(f"-{tag}" for tag in tags)

    def start(self, bench, upstream, options):
        directory, values = self.fill_in(bench, "varnish.vcl", upstream)
        # One pool, for there is one core; threads are there before they are needed. Of its log in shared memory
        # nothing is written that a request causes, as the others' logs are off.
        command = ["varnishd", "-F", "-f", directory / "varnish.vcl", "-a", f"127.0.0.1:{values['PORT']}",
                   "-n", values["MEMORY"] / "varnish", "-T", "none", "-s", f"malloc,{bench.cache_mib}m",
                   "-p", "thread_pools=1", "-p", "thread_pool_min=200", "-p", "thread_pool_max=5000",
                   "-p", "listen_depth=4096", "-p", "timeout_idle=600", "-p", f"vsl_mask={self.mask}"]
        return Process(command, SERVER_CORE, values["PORT"], directory / "log"), values


class Floor(Peer):
    name = "floor"
    version = "hyper and moka of Cargo.lock"
    is_cache = False

    def __init__(self, program):
        self.program = program

    def start(self, bench, upstream, options):
        directory = bench.directory(self.name)
        (directory / "body").write_bytes(fetch(upstream, entry(0), {"Authorization": "token bench-credential"})[1])
        values = {"PORT": free_port()}
        values["TLS_PORT"] = values["PORT"]
        command = [self.program, f"127.0.0.1:{values['PORT']}", directory / "body", options.get("entries", 1)]
        if options.get("tls"):
            command += [directory / "certificate.pem", directory / "key.pem"]
        return Process(command, SERVER_CORE, values["PORT"], directory / "log"), values


class Direct(Peer):
    """No proxy: the client asks the upstream."""

    name = "direct"
    version = "no proxy"
    is_cache = False

    def start(self, bench, upstream, options):
        return contextlib.nullcontext(None), {"PORT": upstream, "TLS_PORT": None}


# Asking


class Wrong(Exception):
    """A peer did not do what it is measured for."""


def fetch(port, target, fields=None, method="GET", body=None, certificate=None):
    """Status, body and fields of one answer."""
    if certificate:
        context = ssl.create_default_context(cafile=certificate)
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=context)
    else:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    with contextlib.closing(connection):
        connection.request(method, target, body, fields or {})
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers


class Turn:
    """One peer's turn in one scenario, while its servers run."""

    def __init__(self, bench, peer, server, values, upstream, options):
        self.bench, self.peer, self.server, self.upstream = bench, peer, server, upstream
        self.options = options
        self.tls = options.get("tls", False)
        self.port = values["TLS_PORT" if self.tls else "PORT"]
        self.fields = {}
        if peer.name == "exportgate" and options.get("key"):
            self.fields = {"Authorization": f"token {bench.key}"}
        if peer.name == "direct":
            self.fields = {"Authorization": "token bench-credential"}

    def url(self, target):
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}{target}"

    def count(self):
        """How often the upstream was asked for what."""
        return json.loads(fetch(self.upstream, "/count")[1])

    def get(self, target, **more):
        certificate = self.bench.scratch / "certificate.pem" if self.tls else None
        return fetch(self.port, target, self.fields, certificate=certificate, **more)

    def expect(self, what, found, wanted):
        if found != wanted:
            raise Wrong(f"{self.peer.name}: {what} is {found!r}, and should be {wanted!r}")

    def check_hit(self, target):
        """That the answer is the upstream's, and that the upstream is asked once for two."""
        direct = fetch(self.upstream, target, {"Authorization": "token bench-credential"})[1]
        before = self.count()["results"]
        for _ in range(2):
            status, body, _ = self.get(target)
            self.expect("the status", status, 200)
            self.expect("the body", body, direct)
        if self.peer.is_cache:
            self.expect("the number of upstream requests for two", self.count()["results"] - before, 1)

    def check_pass(self, target):
        """That the answer is the upstream's, each time anew."""
        direct = fetch(self.upstream, target, {"Authorization": "token bench-credential"})[1]
        before = self.count()["status"]
        for _ in range(2):
            status, body, _ = self.get(target)
            self.expect("the status", status, 200)
            self.expect("the body", body, direct)
        self.expect("the number of upstream requests for two", self.count()["status"] - before, 2)

    def command(self, *command, timeout=300):
        """Runs a client on its core; gives what it printed."""
        done = subprocess.run(["taskset", "-c", CLIENT_CORE, *map(str, command)], capture_output=True, text=True,
                              timeout=timeout)
        if done.returncode != 0:
            raise RuntimeError(f"{command[0]} ended with {done.returncode}: {done.stderr[-2000:]}")
        return done.stdout

    def measured(self, client):
        """What `client` gives, with the server's processor time for each request and its peak memory."""
        before = cpu_seconds(self.server.pid) if self.server else 0
        result = client()
        if self.server:
            used = cpu_seconds(self.server.pid) - before
            result["cpu_us"] = used / result["requests"] * 1e6
            result["cpu_share"] = used / result["seconds"]
            result["rss_mb"] = peak_memory(self.server.pid)
        result["rps"] = result["requests"] / result["seconds"]
        if result.get("errors"):
            raise Wrong(f"{self.peer.name}: {result['errors']} of {result['requests']} requests failed")
        return result

    def wrk(self, connections, target, *mode, seconds=None):
        fields = [part for field in self.fields.items() for part in ("-H", ": ".join(field))]
        said = self.command("wrk", "-t", 1, "-c", connections, "-d", f"{seconds or self.bench.seconds}s", *fields,
                            "-s", HERE / "wrk.lua", self.url(target), "--", *mode)
        return json.loads(re.search(r"^RESULT (.*)$", said, re.M)[1])

    def h2load(self, target, *options, seconds=None):
        """h2load for HTTP/2 and TLS; its log has the time of each request."""
        seconds = seconds or self.bench.seconds
        log = self.bench.scratch / "h2load.log"
        log.unlink(missing_ok=True)
        said = self.command("h2load", "-D", seconds, f"--log-file={log}", *options, self.url(target))
        counts = re.search(r"requests: \d+ total, \d+ started, \d+ done, (\d+) succeeded, (\d+) failed, (\d+) errored, "
                           r"(\d+) timeout", said)
        times = sorted(int(line.split("\t")[2]) for line in log.open() if line.split("\t")[1] == "200")
        return {"requests": int(counts[1]), "seconds": seconds, "errors": int(counts[2]) + int(counts[3]),
                **percentiles(times), "spoken": re.search(r"TLS Protocol: (.*)", said)[1]}

    def load(self, *arguments):
        """The client of benches/load.rs."""
        fields = [part for field in self.fields.items() for part in ("--field", ": ".join(field))]
        return json.loads(self.command(self.bench.programs["load"], *arguments, *fields))


def percentiles(times):
    """Of sorted microseconds, in milliseconds."""
    def at(share):
        return times[min(len(times) - 1, int(len(times) * share))] / 1e3
    return {"p50_ms": at(0.5), "p99_ms": at(0.99), "p999_ms": at(0.999)}


# The scenarios


class Scenario:
    """What is asked, and of whom."""

    def __init__(self, title, run, peers, **options):
        self.title, self.run, self.peers, self.options = title, run, peers, options


def hits(connections, *mode):
    def run(turn):
        turn.check_hit(entry(0))
        before = turn.count()["results"]
        turn.wrk(connections, entry(0), *(mode or ("same",)), seconds=1)
        result = turn.measured(lambda: turn.wrk(connections, entry(0), *(mode or ("same",))))
        turn.expect("the number of upstream requests meanwhile", turn.count()["results"] - before, 0)
        return result
    return run


def tls_hits(*options):
    def run(turn):
        turn.check_hit(entry(0))
        before = turn.count()["results"]
        turn.h2load(entry(0), *options, seconds=1)
        result = turn.measured(lambda: turn.h2load(entry(0), *options))
        turn.expect("the version of TLS", result["spoken"], "TLSv1.3")
        turn.expect("the number of upstream requests meanwhile", turn.count()["results"] - before, 0)
        return result
    return run


def passed(turn, kind, result, before, open_ones):
    """That every request went up, but for one in a thousand: two clients may ask the same in the same moment, and are
    one request then. Those that were on their way at the end are in no client's count."""
    came = turn.count()[kind] - before
    if not result["requests"] * 0.999 <= came <= result["requests"] + open_ones:
        raise Wrong(f"{turn.peer.name}: {came} of {result['requests']} requests went to the upstream")
    return result


def pending(turn):
    turn.check_pass(f"{STATUS}f0000000-0000-4000-8000-000000000000{QUERY}")
    # Never two equal ones at the same time, which exportgate would make one.
    mode = ("count", STATUS, "f0000001", 10_000)
    turn.wrk(64, STATUS, *mode, seconds=1)
    time.sleep(0.1)
    before = turn.count()["status"]
    return passed(turn, "status", turn.measured(lambda: turn.wrk(64, STATUS, *mode)), before, 64)


def pending_100(turn):
    target = f"{STATUS}f0000000-0000-4000-8000-000000000000{QUERY}"
    turn.check_pass(target)
    turn.load("rate", turn.url(target), 100, 1, 4)
    before = turn.count()["status"]
    result = turn.measured(lambda: turn.load("rate", turn.url(target), 100, 3 * turn.bench.seconds, 4))
    return passed(turn, "status", result, before, 0)


def start(turn):
    body = b'{"data":{"type":"resource","attributes":{"formats":["csv"],"dataset":"issues"}}}'
    before = turn.count()["starts"]
    status, _, _ = fetch(turn.port, STARTS + QUERY, {**turn.fields, "Content-Type": "application/vnd.api+json"},
                         "POST", body)
    turn.expect("the status", status, 202)
    turn.expect("the number of starts", turn.count()["starts"] - before, 1)
    turn.wrk(64, STARTS + QUERY, "post", seconds=1)
    time.sleep(0.1)
    before = turn.count()["starts"]
    return passed(turn, "starts", turn.measured(lambda: turn.wrk(64, STARTS + QUERY, "post")), before, 64)


def miss(turn):
    turn.check_hit(entry(0))
    turn.wrk(64, RESULTS, "count", RESULTS, "20000000", 10**9, seconds=1)
    time.sleep(0.1)
    before = turn.count()["results"]
    result = turn.measured(lambda: turn.wrk(64, RESULTS, "count", RESULTS, "30000000", 10**9))
    passed(turn, "results", result, before, 64)
    # It was stored indeed: what was asked for early is there without the upstream. (wrk makes the very first request
    # for itself, to look at it.)
    before = turn.count()["results"]
    turn.expect("the status", turn.get(f"{RESULTS}30000000-0000-4000-8000-{100:012}{QUERY}")[0], 200)
    turn.expect("the number of upstream requests for what is stored", turn.count()["results"] - before, 0)
    return result


def zipf(turn):
    turn.check_hit(entry(0))
    before = turn.count()["results"]
    prefix, suffix = entry(0).split("0" * 12)
    turn.load("fill", turn.url(prefix), suffix, ENTRIES, 32)
    if turn.peer.is_cache:
        turn.expect("the number of stored entries", turn.count()["results"] - before, ENTRIES - 1)
    before = turn.count()["results"]
    turn.wrk(64, RESULTS, "zipf", RESULTS, ENTRIES, seconds=1)
    result = turn.measured(lambda: turn.wrk(64, RESULTS, "zipf", RESULTS, ENTRIES))
    result["upstream_share"] = (turn.count()["results"] - before) / result["requests"]
    # HAProxy finds entries by 32 bits of a hash: of 100,000, a few share theirs and put each other out.
    if result["upstream_share"] > (0.001 if turn.peer.name == "haproxy" else 0):
        raise Wrong(f"{turn.peer.name}: {result['upstream_share']:.2%} of what is stored went to the upstream")
    return result


def handshakes(kind):
    def run(turn):
        turn.check_hit(entry(0))
        url = turn.url(entry(0))
        ca = turn.bench.scratch / "certificate.pem"
        turn.load("handshakes", url, ca, 1, 8, kind)
        return turn.measured(lambda: turn.load("handshakes", url, ca, turn.bench.seconds, 8, kind))
    return run


def collapse(turn):
    turn.check_hit(entry(0))
    before = turn.count()["results"]
    result = turn.measured(
        lambda: turn.load("burst", turn.url(f"{RESULTS}e0000000-0000-4000-8000-000000000000{QUERY}"), 500))
    result["upstream_requests"] = turn.count()["results"] - before
    return result


def half_load(turn):
    turn.check_hit(entry(0))
    fastest = turn.wrk(64, entry(0), "same", seconds=2)
    rate = fastest["requests"] / fastest["seconds"] / 2
    result = turn.measured(
        lambda: turn.load("rate", turn.url(entry(0)), rate, turn.bench.seconds, 64))
    return result


CACHES = ["exportgate", "haproxy", "nginx", "varnish"]
TLS = ["exportgate", "haproxy", "nginx"]

SCENARIOS = {
    "hit-1": Scenario("Hit, HTTP/1.1, 1 connection", hits(1), [*CACHES, "floor"]),
    "hit-64": Scenario("Hit, HTTP/1.1, 64 connections", hits(64), [*CACHES, "floor"]),
    "hit-1000": Scenario("Hit, HTTP/1.1, 1,000 connections", hits(1000), [*CACHES, "floor"]),
    "hit-log-key": Scenario("Hit, HTTP/1.1, 64 connections; exportgate with access log and client key, peers without",
                            hits(64), [*CACHES, "floor"], log=True, key=True),
    "hit-tls": Scenario("Hit, HTTP/1.1 over TLS 1.3, 64 connections", tls_hits("--h1", "-c", "64"), [*TLS, "floor"],
                        tls=True),
    "hit-h2": Scenario("Hit, HTTP/2 over TLS 1.3, 8 connections with 8 streams each",
                       tls_hits("-c", "8", "-m", "8"), [*TLS, "floor"], tls=True),
    "zipf": Scenario(f"Hit, HTTP/1.1, 64 connections, {ENTRIES:,} entries, Zipf draw", zipf, [*CACHES, "floor"],
                     entries=ENTRIES, cache_mib=1024),
    "new-connection": Scenario("Hit, HTTP/1.1, each on a new connection, 64 at a time", hits(64, "close"),
                               [*CACHES, "floor"]),
    "half-load": Scenario("Hit, HTTP/1.1, 64 connections, at half of the server's own highest rate", half_load,
                          [*CACHES, "floor"]),
    "handshakes": Scenario("TLS 1.3 handshakes without resumption, one hit each", handshakes("full"),
                           [*TLS, "floor"], tls=True),
    "handshakes-resumed": Scenario("TLS 1.3 handshakes with resumption, one hit each", handshakes("resumed"),
                                   [*TLS, "floor"], tls=True),
    "pending": Scenario("PENDING passed through, 64 connections; exportgate with its journal", pending, CACHES),
    "pending-100": Scenario("PENDING passed through, 100 requests a second", pending_100, [*CACHES, "direct"]),
    "miss": Scenario("Miss: fetched and stored, 64 connections; exportgate with its journal", miss, CACHES,
                     cache_mib=2048),
    "start": Scenario("Start (POST) passed through, 64 connections; exportgate with its journal", start, CACHES),
    "collapse": Scenario("500 equal requests at once for what takes the upstream a second", collapse, CACHES),
}


def take_turn(bench, peer, scenario):
    """Fresh servers, the scenario, and their end."""
    port = free_port()
    upstream = Process([bench.programs["upstream"], f"127.0.0.1:{port}"], CLIENT_CORE, port,
                       bench.scratch / "upstream.log")
    bench.memory = []
    # HAProxy takes all of it at once, so that it is no larger than it must be.
    bench.cache_mib = scenario.options.get("cache_mib", 64)
    try:
        with upstream:
            process, values = peer.start(bench, port, scenario.options)
            with process as server:
                return scenario.run(Turn(bench, peer, server, values, port, scenario.options))
    finally:
        for memory in bench.memory:
            shutil.rmtree(memory, ignore_errors=True)


def median(rounds):
    """Of each number over the rounds, and how far apart the processor times are."""
    result = {}
    for name, value in rounds[0].items():
        if isinstance(value, (int, float)):
            result[name] = statistics.median(one[name] for one in rounds)
        else:
            result[name] = value
    if "cpu_us" in result:
        result["cpu_us_spread"] = [min(one["cpu_us"] for one in rounds), max(one["cpu_us"] for one in rounds)]
    return result


def compare(results):
    """Ratios of processor time to the best peer and to the floor."""
    peers = [result["cpu_us"] for name, result in results.items()
             if name not in ("exportgate", "floor", "direct") and "cpu_us" in result]
    for result in results.values():
        if "direct" in results and result is not results["direct"]:
            for share in ("p50", "p99"):
                result[f"{share}_added_ms"] = result[f"{share}_ms"] - results["direct"][f"{share}_ms"]
        if "cpu_us" not in result:
            continue
        if peers and "upstream_requests" not in result:
            result["to_best_peer"] = result["cpu_us"] / min(peers)
        if "floor" in results:
            result["to_floor"] = result["cpu_us"] / results["floor"]["cpu_us"]


def line(name, result):
    parts = [f"  {name:11}"]
    for key, form in (("rps", "{:9,.0f}/s"), ("p50_ms", "p50 {:.3f}"), ("p99_ms", "p99 {:.3f}"),
                      ("p999_ms", "p99.9 {:.3f} ms"), ("cpu_us", "{:6.2f} µs CPU"), ("rss_mb", "{:5.0f} MiB"),
                      ("p50_added_ms", "p50 +{:.3f}"), ("p99_added_ms", "p99 +{:.3f} ms"),
                      ("upstream_requests", "{:.0f} upstream"),
                      ("to_best_peer", "{:.2f} × best peer"), ("to_floor", "{:.2f} × floor")):
        if key in result:
            parts.append(form.format(result[key]))
    return "  ".join(parts)


def machine():
    model = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    memory = re.search(r"MemTotal:\s+(\d+)", pathlib.Path("/proc/meminfo").read_text())
    return {
        "processor": model[1] if model else platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(int(memory[1]) / 1024 ** 2),
        "kernel": platform.release(),
        "load": os.getloadavg()[0],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two rounds of two seconds instead of five of six")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--peers", help="these alone, with commas")
    parser.add_argument("--programs", required=True, help="a directory with exportgate, floor, upstream and load")
    parser.add_argument("--out", required=True, help="the directory of the results")
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=", ".join(SCENARIOS))
    arguments = parser.parse_args()
    unknown = set(arguments.scenarios) - SCENARIOS.keys()
    if unknown:
        parser.error(f"no such scenario: {', '.join(sorted(unknown))}; there are: {', '.join(SCENARIOS)}")
    rounds = arguments.rounds or (2 if arguments.quick else 5)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    programs = {name: pathlib.Path(arguments.programs).resolve() / name for name in ("exportgate", "floor", "upstream", "load")}
    out = pathlib.Path(arguments.out).resolve()
    out.mkdir(parents=True, exist_ok=True)

    peers = [Exportgate(programs["exportgate"]), Haproxy(), Nginx(), Varnish(), Floor(programs["floor"]), Direct()]
    peers = {peer.name: peer for peer in peers}
    wanted = arguments.peers.split(",") if arguments.peers else list(peers)
    about = machine()
    if about["load"] > 0.5:
        print(f"This machine is busy (load {about['load']:.1f}): the figures will say little.", file=sys.stderr)
    with tempfile.TemporaryDirectory(dir=out) as scratch:
        bench = Bench(programs, scratch, arguments.quick)
        for name in arguments.scenarios or SCENARIOS:
            scenario = SCENARIOS[name]
            chosen = [peer for peer in scenario.peers if peer in wanted]
            print(f"\n{name}: {scenario.title}", flush=True)
            taken = {peer: [] for peer in chosen}
            for turn in range(rounds):
                first = turn % len(chosen)
                for peer in chosen[first:] + chosen[:first]:
                    result = take_turn(bench, peers[peer], scenario)
                    taken[peer].append(result)
                    print(f"  round {turn + 1}" + line(peer, result), flush=True)
            results = {peer: median(results) for peer, results in taken.items()}
            compare(results)
            print(f"  medians of {rounds} rounds:")
            for peer, result in results.items():
                print(line(peer, result), flush=True)
            written = {
                "scenario": name, "title": scenario.title, "machine": about,
                "versions": {peer: peers[peer].version for peer in chosen},
                "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
                "rounds": rounds, "seconds": bench.seconds, "quick": arguments.quick,
                "medians": results, "each": taken,
            }
            (out / f"{name}.json").write_text(json.dumps(written, indent=1))


if __name__ == "__main__":
    main()
