"""What the benches of servers have in common: processes on their own cores and what they use, the gateway and the floor
as servers, and the clients that ask them. Results are in plain dictionaries.
"""

import contextlib
import http.client
import json
import os
import pathlib
import platform
import re
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
PEERS = HERE / "peers"
SERVER_CORE, CLIENT_CORE = "0", "1"
TICKS = os.sysconf("SC_CLK_TCK")
RESULTS = "/rest/orgs/bench/export/"
STATUS = "/rest/orgs/bench/jobs/export/"
STARTS = "/rest/orgs/bench/export"
QUERY = "?version=2024-10-15"


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
        # Between two looks whether it listens, in seconds.
        self.pause = 0.02

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
            time.sleep(self.pause)

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


# The servers


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
        text = re.sub(r"@([A-Z_]+)@", lambda found: str(values.get(found[1], found[0])), (PEERS / name).read_text())
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
        environment = {"SNYK_TOKEN": "bench-credential", "TOKIO_WORKER_THREADS": "1", **options.get("environment", {})}
        process = Process([self.program, "serve", "--config", directory / "exportgate.toml"], SERVER_CORE,
                          values["PORT"], directory / "log", environment)
        return process, values


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
        self.options, self.client_core = options, CLIENT_CORE
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

    def command(self, *command, timeout=900):
        """Runs a client on its core; gives what it printed."""
        done = subprocess.run(["taskset", "-c", self.client_core, *map(str, command)], capture_output=True, text=True,
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
        # With a thousand connections, a peer lets some requests wait until the client gives up.
        allowed = 0 if self.peer.name == "exportgate" else result["requests"] / 100
        if result.get("errors", 0) > allowed:
            raise Wrong(f"{self.peer.name}: {result['errors']} of {result['requests']} requests failed")
        return result

    def wrk(self, connections, target, *mode, seconds=None):
        fields = [part for field in self.fields.items() for part in ("-H", ": ".join(field))]
        said = self.command("wrk", "-t", 1, "-c", connections, "-d", f"{seconds or self.bench.seconds}s", *fields,
                            "-s", PEERS / "wrk.lua", self.url(target), "--", *mode)
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
