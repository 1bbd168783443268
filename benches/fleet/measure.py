"""Gateways that share an engine. Started by run.sh."""

import argparse
import contextlib
import json
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

import pages
from instructions.measure import request as instructions
from servers import (CLIENT_CORE, QUERY, RESULTS, SERVER_CORE, Bench, Exportgate, Process, Turn, cpu_seconds, entry, fetch,
                     free_port, machine)

BOTH_CORES = f"{SERVER_CORE},{CLIENT_CORE}"
CONFIG = """
listen = ["127.0.0.1:{port}"]
upstream.url = "http://127.0.0.1:{upstream}"
admin.listen = "127.0.0.1:{admin}"
journal.path = "{home}/journal.db"
log.filter = "warn"
cache.max_bytes = "256MiB"
budget = {{ per_second = {second}, per_minute = {minute}, per_hour = {hour} }}
[shared]
url = "unix:{engine}"
key_file = "{key}"
gateways = {gateways}
own = {own}
max_entry = "1MiB"
"""
# So many that no limit is felt, of a second alone, so that no minute has to pass first; and Snyk's.
UNBOUND = {"second": 2_500, "minute": 150_000, "hour": 9_000_000}
SNYK = {"second": 160, "minute": 1_620, "hour": 97_200}


class Engine:
    """A redis-server on a Unix socket, with nothing on disk."""

    def __init__(self, scratch):
        self.directory = pathlib.Path(tempfile.mkdtemp(dir=scratch))
        self.socket = self.directory / "engine.sock"

    def __enter__(self):
        self.socket.unlink(missing_ok=True)
        self.process = subprocess.Popen(
            ["redis-server", "--port", "0", "--unixsocket", self.socket, "--save", "", "--appendonly", "no",
             "--dir", self.directory, "--logfile", self.directory / "log"], stdin=subprocess.DEVNULL)
        until(lambda: self.socket.exists() and self.ask("PING") == "PONG", "the engine")
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def ask(self, *words):
        done = subprocess.run(["redis-cli", "-s", self.socket, *words], capture_output=True, text=True)
        return done.stdout.strip()

    def info(self, section, name):
        return float(re.search(rf"^{name}:([\d.]+)", self.ask("INFO", section), re.M)[1])

    def cpu(self):
        return self.info("cpu", "used_cpu_user") + self.info("cpu", "used_cpu_sys")


class Fleet:
    """Gateways on one engine, before one upstream."""

    def __init__(self, bench, count, limits, own=0.25, core=BOTH_CORES):
        self.bench, self.count, self.limits, self.own, self.core = bench, count, limits, own, core

    def __enter__(self):
        self.stack = contextlib.ExitStack()
        try:
            self.start()
        except BaseException:
            self.stack.close()
            raise
        return self

    def start(self):
        scratch, programs = self.bench.scratch, self.bench.programs
        self.upstream = free_port()
        self.stack.enter_context(Process([programs["upstream"], f"127.0.0.1:{self.upstream}"], self.core, self.upstream,
                                         scratch / "upstream.log"))
        self.engine = self.stack.enter_context(Engine(scratch))
        key = scratch / "seal.key"
        made = subprocess.run([programs["exportgate"], "key", "new", "--seal"], check=True, capture_output=True)
        key.write_bytes(made.stdout)
        self.ports, self.admins, self.gateways = [], [], []
        for _ in range(self.count):
            home = pathlib.Path(tempfile.mkdtemp(dir=scratch))
            port, admin = free_port(), free_port()
            (home / "exportgate.toml").write_text(CONFIG.format(
                port=port, admin=admin, upstream=self.upstream, home=home, engine=self.engine.socket, key=key,
                gateways=self.count, own=self.own, **self.limits))
            process = Process([programs["exportgate"], "serve", "--config", home / "exportgate.toml"], self.core, port,
                              home / "log", {"SNYK_TOKEN": "bench-credential"})
            self.gateways.append(self.stack.enter_context(process))
            self.ports.append(port)
            self.admins.append(admin)
        for admin in self.admins:
            until(lambda: self.shared(admin)["place"] > 0, "a member")

    def __exit__(self, *error):
        return self.stack.__exit__(*error)

    def shared(self, admin):
        with contextlib.suppress(OSError):
            return json.loads(fetch(admin, "/api/status")[1])["shared"]
        return {"place": 0, "state": "alone"}

    def sent(self):
        return json.loads(fetch(self.upstream, "/count")[1])["results"]

    def load(self, port, run, count, connections):
        """Starts a client that asks for `count` exports of this run, each once."""
        prefix = f"http://127.0.0.1:{port}{RESULTS}{run:08x}-0000-4000-8000-"
        return subprocess.Popen(["taskset", "-c", self.core, self.bench.programs["load"], "fill", prefix, QUERY,
                                 str(count), str(connections)], stdout=subprocess.PIPE, text=True)

    def open(self):
        """Until the common part is open and a request has gone by it."""
        client = self.load(self.ports[0], 0xffff, 1, 1)
        client.communicate()
        until(lambda: fetch(self.ports[0], entry(1))[0] == 200, "the common part", 100)


def until(is_so, what, seconds=30):
    begun = time.monotonic()
    while not is_so():
        if time.monotonic() > begun + seconds:
            raise RuntimeError(f"{what} is not there")
        time.sleep(0.05)


def finished(client):
    out, _ = client.communicate()
    return json.loads(out)


def hit(bench, quick):
    """A hit in the gateway's own memory: instructions and processor time, without and with an engine."""
    counts, times = {}, {False: [], True: []}
    with Engine(bench.scratch) as engine:
        key = bench.scratch / "seal.key"
        made = subprocess.run([bench.programs["exportgate"], "key", "new", "--seal"], check=True, capture_output=True)
        key.write_bytes(made.stdout)
        shared = {"EXPORTGATE_SHARED_URL": f"unix:{engine.socket}", "EXPORTGATE_SHARED_GATEWAYS": "1",
                  "EXPORTGATE_SHARED_KEY_FILE": str(key)}
        options = {False: {}, True: {"environment": shared}}
        for is_shared in (False, True):
            counts[is_shared] = instructions(bench, bench.programs, options[is_shared], 64, 640 if quick else 25_600, entry(0))
        for _ in range(1 if quick else 5):
            for is_shared in (False, True):
                times[is_shared].append(processor_time(bench, options[is_shared]))
    ratios = [counts[True] / counts[False], statistics.median(times[True]) / statistics.median(times[False])]
    return f"""A hit in a gateway's own memory, 64 connections:

| | without `[shared]` | with | ratio (goal: 1.02 at most) |
|---|---|---|---|
| instructions | {counts[False]:,.0f} | {counts[True]:,.0f} | **{ratios[0]:.3f}** |
| CPU µs, median of {len(times[True])} | {statistics.median(times[False]):.2f} | {statistics.median(times[True]):.2f} | {ratios[1]:.3f} |
"""


def processor_time(bench, options):
    """Of a hit, in microseconds."""
    port = free_port()
    bench.memory, bench.cache_mib = [], 64
    with Process([bench.programs["upstream"], f"127.0.0.1:{port}"], CLIENT_CORE, port, bench.scratch / "upstream.log"):
        gateway = Exportgate(bench.programs["exportgate"])
        process, values = gateway.start(bench, port, options)
        with process as server:
            turn = Turn(bench, gateway, server, values, port, options)
            turn.expect("the status", turn.get(entry(0))[0], 200)
            return turn.measured(lambda: turn.wrk(64, entry(0)))["cpu_us"]


def second_tier(bench, quick):
    """Entries: what they cost the engine, and what a hit on them costs."""
    count = 500 if quick else 10_000
    with Fleet(bench, 2, UNBOUND) as fleet:
        fleet.open()
        fleet.engine.ask("MEMORY", "PURGE")
        memory, cpu, sent = fleet.engine.info("memory", "used_memory"), fleet.engine.cpu(), fleet.sent()
        missed = finished(fleet.load(fleet.ports[0], 1, count, 16))
        memory = fleet.engine.info("memory", "used_memory") - memory
        miss_cpu, cpu = fleet.engine.cpu() - cpu, fleet.engine.cpu()
        of_miss = fleet.sent() - sent
        gateway, sent = cpu_seconds(fleet.gateways[1].pid), fleet.sent()
        found = finished(fleet.load(fleet.ports[1], 1, count, 16))
        gateway, cpu = cpu_seconds(fleet.gateways[1].pid) - gateway, fleet.engine.cpu() - cpu
        again = fleet.sent() - sent
    return f"""{count:,} exports of 3.8 KB, each asked for once at one gateway, and then once at another one:

| | requests to Snyk | p50 ms | p99 ms | engine CPU µs each | gateway CPU µs each |
|---|---|---|---|---|---|
| miss, stored on the engine | {of_miss:,} | {missed["p50_ms"]:.2f} | {missed["p99_ms"]:.2f} | {miss_cpu / count * 1e6:.0f} | |
| hit from the second tier | {again:,} | {found["p50_ms"]:.2f} | {found["p99_ms"]:.2f} | {cpu / count * 1e6:.0f} | {gateway / count * 1e6:.0f} |

Memory on the engine for {count:,} entries: {memory / 1e6:.1f} MB, {memory / count / 1e3:.2f} KB each.
"""


def engine_cpu(bench, quick):
    """All requests by the common part, at Snyk's rate of a second."""
    seconds, gateways = (3 if quick else 30), 4
    limits = {"second": 160, "minute": 9_600, "hour": 576_000}
    with Fleet(bench, gateways, limits, own=0.0) as fleet:
        fleet.open()
        cpu, sent, begun = fleet.engine.cpu(), fleet.sent(), time.monotonic()
        clients = [fleet.load(port, 2 + at, 100_000, 8) for at, port in enumerate(fleet.ports)]
        time.sleep(seconds)
        sent, cpu, took = fleet.sent() - sent, fleet.engine.cpu() - cpu, time.monotonic() - begun
        for client in clients:
            client.kill()
            client.communicate()
    each = cpu / sent * 1e6
    return (f"{gateways} gateways without own parts, {sent / took:.0f} requests a second to Snyk, each a miss: the engine takes "
            f"**{each:.0f} µs** of processor time for each (goal: 60 at most), the calls of the members and the entries included.\n")


def replicas(bench, quick):
    """Hits, by clients on the same two cores."""
    rows = ""
    for count in (1, 2, 3, 4):
        with Fleet(bench, count, UNBOUND) as fleet:
            for port in fleet.ports:
                until(lambda: fetch(port, entry(0))[0] == 200, "an entry", 100)
            before = [cpu_seconds(gateway.pid) for gateway in fleet.gateways]
            clients = [subprocess.Popen(["wrk", "-t", "1", "-c", str(64 // count), "-d", "2s" if quick else "8s",
                                         f"http://127.0.0.1:{port}{entry(0)}"], stdout=subprocess.PIPE, text=True)
                       for port in fleet.ports]
            said = [client.communicate()[0] for client in clients]
            rate = sum(float(re.search(r"Requests/sec:\s*([\d.]+)", one)[1]) for one in said)
            total = sum(int(re.search(r"(\d+) requests in", one)[1]) for one in said)
            cpu = sum(cpu_seconds(gateway.pid) for gateway in fleet.gateways) - sum(before)
            rows += f"| {count} | {rate:,.0f} | {cpu / total * 1e6:.1f} | {fleet.sent()} |\n"
    return f"""Hits of 64 clients on the same two cores:

| gateways | requests/s in all | CPU µs/request | requests to Snyk |
|---|---|---|---|
{rows}"""


def purge(bench, quick):
    """From the request to the answer that names all gateways."""
    count, gateways = (20 if quick else 500), 4
    with Fleet(bench, gateways, UNBOUND) as fleet:
        fleet.open()
        times = []
        for number in range(count):
            begun = time.monotonic()
            status, body, _ = fetch(fleet.admins[0], f"/api/exports/bench/00000000-0000-4000-8000-{number:012}",
                                    {"Host": f"127.0.0.1:{fleet.admins[0]}"}, method="DELETE")
            times.append((time.monotonic() - begun) * 1e3)
            applied = [gateway["applied"] for gateway in json.loads(body).get("gateways", [])]
            if status != 200 or applied != [True] * gateways:
                return f"Purges: NOT MEASURED, the answer is {status} {body[:200].decode()}\n"
    times.sort()
    at = [times[min(count - 1, int(count * share))] for share in (0.5, 0.99)]
    return (f"A purge until all of {gateways} gateways have applied it ({count} in turn): p50 {at[0]:.1f} ms, "
            f"**p99 {at[1]:.1f} ms** (goal: 50).\n")


def restart(bench, quick):
    """Sends a second at Snyk's own limits while the engine is killed and comes back empty."""
    if quick:
        return "A restart of the engine: not in a quick run.\n"
    gateways = 4
    with Fleet(bench, gateways, SNYK) as fleet:
        clients = [fleet.load(port, 10 + at, 1_000_000, 8) for at, port in enumerate(fleet.ports)]
        until(lambda: fleet.sent() > 200, "the first minute's end", 120)
        time.sleep(70)
        counts = [fleet.sent()]
        fleet.engine.__exit__()
        fleet.engine.__enter__()
        begun = time.monotonic()
        opened = None
        while opened is None and time.monotonic() < begun + 100:
            time.sleep(1)
            counts.append(fleet.sent())
            states = [fleet.shared(admin)["state"] for admin in fleet.admins]
            if time.monotonic() > begun + 10 and all(state == "up" for state in states):
                opened = time.monotonic() - begun
        for client in clients:
            client.kill()
            client.communicate()
    rate = (counts[-1] - counts[0]) / (len(counts) - 1)
    least = min(counts[at + 5] - counts[at] for at in range(len(counts) - 5)) / 5
    return (f"The engine is killed and comes back empty, {gateways} gateways at Snyk's own limits (27 a second): the common part is open "
            f"again after **{opened:.0f} s**; meanwhile {rate:.1f} requests a second are sent from own parts, and no less than {least:.1f} in "
            "any five seconds.\n")


ALL = {"hit": hit, "second-tier": second_tier, "engine-cpu": engine_cpu, "replicas": replicas, "purge": purge, "restart": restart}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("programs", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("page", type=pathlib.Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(ALL))
    arguments = parser.parse_intermixed_args()
    if unknown := set(arguments.names) - ALL.keys():
        parser.error(f"no such measurement: {', '.join(sorted(unknown))}; there are: {', '.join(ALL)}")
    programs = {path.name: path for path in arguments.programs.resolve().iterdir()}
    about, parts = machine(), []
    with tempfile.TemporaryDirectory(dir=arguments.out) as scratch:
        bench = Bench(programs, scratch, arguments.quick)
        for name in arguments.names or ALL:
            parts.append(ALL[name](bench, arguments.quick))
            print(parts[-1], flush=True)
    busy = "**The machine was busy: trust the ratios and the processor times alone.**\n\n" if about["load"] > 1.5 else ""
    version = subprocess.run(["redis-server", "--version"], capture_output=True, text=True).stdout
    pages.put(arguments.page, "fleet", f"""## Many machines

```sh
benches/fleet/run.sh
```

{about["processor"]}, {about["cores"]} cores, {about["memory_gib"]} GiB, Linux {about["kernel"]}; {time.strftime("%Y-%m-%d")}. redis-server
{re.search(r"v=([0-9.]+)", version)[1]} on a Unix socket, nothing on disk; gateways, engine, clients and upstream on the same two cores.

{busy}""" + "\n".join(parts))


if __name__ == "__main__":
    main()
