"""Measures what grows, and what is promised of an idle or a busy program. Started by run.sh, which installs and builds
what this needs; results go to JSON files, of which report.py makes the page and the curves.
"""

import argparse
import contextlib
import datetime
import http.client
import json
import pathlib
import re
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

from servers import (CLIENT_CORE, QUERY, RESULTS, SERVER_CORE, STATUS, Bench, Exportgate, Floor, Process, Turn, cpu_seconds,
                     entry, fetch, free_port, machine)

BODY = 3_800


def resident(pid):
    """Of one process, in bytes."""
    found = re.search(r"VmRSS:\s+(\d+) kB", pathlib.Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) * 1024


class Growth:
    """What each measurement needs."""

    def __init__(self, bench, quick):
        self.bench, self.quick, self.programs = bench, quick, bench.programs

    def sizes(self, first, last, quick_last):
        """Powers of ten."""
        return [10 ** power for power in range(first, (quick_last if self.quick else last) + 1)]

    def program(self, *arguments, under=(), timeout=900):
        """One line of benches/growth.rs."""
        done = subprocess.run(["taskset", "-c", SERVER_CORE, *under, self.programs["growth"], *map(str, arguments)],
                              capture_output=True, text=True, timeout=timeout)
        if done.returncode != 0:
            raise RuntimeError(f"growth {arguments} ended with {done.returncode}: {done.stderr[-2000:]}")
        return json.loads(done.stdout), done.stderr

    @contextlib.contextmanager
    def serving(self, cores=SERVER_CORE, threads="1", peer=None, change=None, **options):
        """A gateway (or `peer`) and its upstream, while the block runs."""
        port = free_port()
        upstream = Process([self.programs["upstream"], f"127.0.0.1:{port}"], CLIENT_CORE, port,
                           self.bench.scratch / "upstream.log")
        self.bench.memory, self.bench.cache_mib = [], options.get("cache_mib", 64)
        peer = peer or Exportgate(self.programs["exportgate"])
        try:
            with upstream:
                process, values = peer.start(self.bench, port, options)
                process.core = cores
                process.environment["TOKIO_WORKER_THREADS"] = threads
                if change:
                    change(values)
                with process as server:
                    yield Turn(self.bench, peer, server, values, port, options)
        finally:
            for memory in self.bench.memory:
                shutil.rmtree(memory, ignore_errors=True)


def set_keys(table, lines):
    """Adds lines to a table of the gateway's configuration, before it starts."""
    def change(values):
        file = values["DIR"] / "exportgate.toml"
        file.write_text(file.read_text().replace(f"[{table}]\n", f"[{table}]\n{lines}\n"))
    return change


# What grows


def entries(growth):
    """Memory and look-up of stored entries: in the library alone, and in the program."""
    rows = []
    for count in growth.sizes(2, 6, 4):
        row, _ = growth.program("entries", count, 1 if growth.quick else 3)
        row["overhead"] = row["rss_per_entry"] - row["body"] - row["head"]
        if count <= (10_000 if growth.quick else 100_000):
            under = ["valgrind", "--tool=callgrind", "--toggle-collect=*looking_up*", "--callgrind-out-file=/dev/null"]
            times = 2_000
            _, said = growth.program("entries", count, f"x{times}", under=under)
            row["lookup_instructions"] = int(re.search(r"Collected : (\d+)", said)[1]) / times
        if count <= (10_000 if growth.quick else 100_000):
            row.update(stored(growth, count))
        rows.append(row)
        print("  " + json.dumps(row), flush=True)
    return rows


def stored(growth, count):
    """The same in the program: filled by misses, asked by wrk for one after the other."""
    with growth.serving(cache_mib=4_096) as turn:
        turn.check_hit(entry(count))
        prefix, suffix = f"{RESULTS}00000000-0000-4000-8000-", QUERY
        # What thousands of requests leave behind besides entries (connections, the journal's pages), the first entries
        # must not be charged with.
        turn.load("fill", turn.url(f"{RESULTS}00000009-0000-4000-8000-"), suffix, 3_000, 32)
        turn.wrk(32, entry(count), "same", seconds=1)
        before = resident(turn.server.pid)
        turn.load("fill", turn.url(prefix), suffix, count, 32)
        # moka puts its things in order while it is asked.
        turn.wrk(32, RESULTS, "count", RESULTS, "00000000", count, seconds=1)
        after = resident(turn.server.pid)
        result = turn.measured(lambda: turn.wrk(64, RESULTS, "count", RESULTS, "00000000", count))
        _, _, fields = fetch(turn.port, entry(0))
        head = sum(len(name) + len(value) for name, value in fields.items())
    held = (after - before) / count
    return {"program_rss_per_entry": held, "program_overhead": held - BODY - head, "program_head": head,
            "program_cpu_us": result["cpu_us"], "program_rps": result["rps"]}


def clients(growth):
    """Processor time of a hit with so many clients, each with a key and a policy, all of them drawn."""
    rows = []
    for count in (1, 10, 100, 1_000):
        growth.program("clients", growth.bench.scratch, count)
        with growth.serving(key=True, log=False) as turn:
            keys = (growth.bench.scratch / "keys").read_text().split()
            turn.fields = {"Authorization": f"token {keys[0]}"}
            turn.check_hit(entry(0))
            turn.fields = {}
            rounds = [turn.measured(lambda: turn.wrk(64, entry(0), "keys", growth.bench.scratch / "keys"))
                      for _ in range(1 if growth.quick else 3)]
        row = {"clients": count, "cpu_us": statistics.median(one["cpu_us"] for one in rounds),
               "rps": statistics.median(one["rps"] for one in rounds)}
        rows.append(row)
        print("  " + json.dumps(row), flush=True)
    return rows


def timed(command, rounds=9):
    """Milliseconds from start to end, the median."""
    times = []
    for _ in range(rounds):
        begun = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL, timeout=120)
        times.append((time.perf_counter() - begun) * 1e3)
    return statistics.median(times)


def journal(growth):
    """`exportgate requests`, and what one more record takes, in a journal of so many records."""
    rows = []
    for count in growth.sizes(4, 6, 4):
        with tempfile.TemporaryDirectory(dir=growth.bench.scratch) as directory:
            path = pathlib.Path(directory) / "journal.db"
            made, _ = growth.program("journal", path, count)
            row = {"records": count, "write_us": made["seconds"] / count * 1e6, "mib": path.stat().st_size / 1024 ** 2}
            searches = {
                "newest": [], "id": ["--id", made["id"]], "export": ["--export", made["export"]],
                "org": ["--org", made["org"]], "client": ["--client", made["client"]], "status": ["--status", "503"],
                "client_error": ["--client", "client-0019", "--status", "error"],
                # No client ever has it: of all records of the client, none is in the answer.
                "client_none": ["--client", made["client"], "--status", "404"],
            }
            command = [growth.programs["exportgate"], "requests", "--journal", path, "--format", "json"]
            command = ["taskset", "-c", SERVER_CORE, *command]
            for name, filters in searches.items():
                row[f"{name}_ms"] = timed([*command, *filters])
            row["start_ms"] = timed(["taskset", "-c", SERVER_CORE, growth.programs["exportgate"], "--version"])
            commits, _ = growth.program("commits", path, 2_000 if growth.quick else 10_000)
            row.update(commits)
        rows.append(row)
        print("  " + json.dumps(row), flush=True)
    return rows


def cores(growth):
    """Throughput with one core for the server, and with both for server and client."""
    rows = []
    for name, server, threads, client in (("1", "0", "1", "1"), ("2", "0,1", "2", "0,1")):
        for kind in ("hit", "pending"):
            with growth.serving(cores=server, threads=threads) as turn:
                turn.client_core = client
                turn.check_hit(entry(0))
                mode = ("same",) if kind == "hit" else ("count", STATUS, "f0000001", 10_000)
                target = entry(0) if kind == "hit" else STATUS
                turn.wrk(64, target, *mode, seconds=1)
                before = resource.getrusage(resource.RUSAGE_CHILDREN)
                result = turn.measured(lambda: turn.wrk(64, target, *mode))
                after = resource.getrusage(resource.RUSAGE_CHILDREN)
            used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            row = {"cores": name, "kind": kind, "rps": result["rps"], "cpu_us": result["cpu_us"],
                   "server_share": result["cpu_share"], "client_share": used / result["seconds"],
                   "p99_ms": result["p99_ms"]}
            rows.append(row)
            print("  " + json.dumps(row), flush=True)
    return rows


# What is promised


def pauses(growth):
    """A constant rate of hits, with misses between them that put others out of the cache and out of the journal."""
    rate, seconds, rows = 2_000, 15 if growth.quick else 600, []
    tight = set_keys("journal", "max_rows = 2000")
    for name, peer, every in (("exportgate", None, 10), ("floor", Floor(growth.programs["floor"]), 0)):
        change = tight if peer is None else None
        with growth.serving(peer=peer, change=change, cache_mib=4) as turn:
            turn.check_hit(entry(0))
            other = f"{RESULTS}00000001-0000-4000-8000-@{QUERY}"
            before = turn.count()["results"]
            result = turn.measured(
                lambda: turn.load("mixed", turn.url(entry(0)), turn.url(other), every, rate, seconds, 16))
            row = {"server": name, "rate": rate, "seconds": seconds, "missed": turn.count()["results"] - before, **result}
        rows.append(row)
        print("  " + json.dumps(row), flush=True)
    return rows


def idle(growth):
    """Memory with nothing to do, and with a thousand connections that do nothing."""
    with growth.serving() as turn:
        time.sleep(2)
        alone = resident(turn.server.pid)
        opened = [socket.create_connection(("127.0.0.1", turn.port)) for _ in range(1_000)]
        time.sleep(2)
        connected = resident(turn.server.pid)
        for one in opened:
            one.sendall(f"GET {entry(0)} HTTP/1.1\r\nHost: 127.0.0.1:{turn.port}\r\n\r\n".encode())
        for one in opened:
            one.settimeout(10)
            turn.expect("the answer", one.recv(12), b"HTTP/1.1 200")
        time.sleep(2)
        asked = resident(turn.server.pid)
        for one in opened:
            one.close()
    row = {"idle_mib": alone / 1024 ** 2, "connected_mib": (connected - alone) / 1024 ** 2,
           "asked_mib": (asked - alone) / 1024 ** 2}
    print("  " + json.dumps(row), flush=True)
    return [row]


def start(growth):
    """From exec to the first 200 of /readyz."""
    times, used = [], []
    for _ in range(5 if growth.quick else 20):
        port, admin = free_port(), free_port()
        growth.bench.memory, growth.bench.cache_mib = [], 64
        process, values = Exportgate(growth.programs["exportgate"]).start(growth.bench, port, {})
        file = values["DIR"] / "exportgate.toml"
        text = file.read_text()
        file.write_text(text.replace('[admin]\nlisten = "127.0.0.1:0"', f'[admin]\nlisten = "127.0.0.1:{admin}"'))
        process.port, process.pause = admin, 0.0005
        begun = time.perf_counter()
        with process:
            status = None
            while status != 200 and time.perf_counter() < begun + 10:
                with contextlib.suppress(OSError, http.client.HTTPException):
                    status = fetch(admin, "/readyz")[0]
            times.append((time.perf_counter() - begun) * 1e3)
            used.append(cpu_seconds(process.pid) * 1e3)
            if status != 200:
                raise RuntimeError("/readyz gives no 200")
        for memory in growth.bench.memory:
            shutil.rmtree(memory, ignore_errors=True)
    row = {"median_ms": statistics.median(times), "least_ms": min(times), "most_ms": max(times),
           "cpu_ms": statistics.mean(used), "starts": len(times)}
    print("  " + json.dumps(row), flush=True)
    return [row]


ALL = {"entries": entries, "clients": clients, "journal": journal, "cores": cores, "idle": idle, "start": start,
       "pauses": pauses}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="smaller and shorter, to see that all works")
    parser.add_argument("--programs", required=True, type=pathlib.Path)
    parser.add_argument("--out", required=True, type=pathlib.Path, help="the directory of the results")
    parser.add_argument("what", nargs="*", metavar="WHAT", help=", ".join(ALL))
    arguments = parser.parse_args()
    unknown = set(arguments.what) - ALL.keys()
    if unknown:
        parser.error(f"nothing is called {', '.join(sorted(unknown))}; there are: {', '.join(ALL)}")
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    programs = {path.name: path for path in arguments.programs.resolve().iterdir()}
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    about = machine()
    if about["load"] > 0.5:
        print(f"This machine is busy (load {about['load']:.1f}): the times will say little.", file=sys.stderr)
    with tempfile.TemporaryDirectory(dir=out) as scratch:
        growth = Growth(Bench(programs, scratch, arguments.quick), arguments.quick)
        for name in arguments.what or ALL:
            print(f"\n{name}: {ALL[name].__doc__}", flush=True)
            written = {"what": name, "title": ALL[name].__doc__, "machine": about, "quick": arguments.quick,
                       "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
                       "rows": ALL[name](growth)}
            (out / f"{name}.json").write_text(json.dumps(written, indent=1))


if __name__ == "__main__":
    main()
