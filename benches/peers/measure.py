"""Measures exportgate beside the proxies that people would use instead. Started by run.sh, which installs and builds
what this needs; results go to a JSON file, of which report.py makes the page and the chart.

One server runs at a time, on one core, with a fresh upstream; client and upstream have the other core. In each round
every peer has its turn, and the next round begins with another one.
"""

import argparse
import contextlib
import datetime
import json
import pathlib
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

from servers import (CLIENT_CORE, QUERY, RESULTS, SERVER_CORE, STARTS, STATUS, Bench, Exportgate, Floor, Peer, Process,
                     Turn, Wrong, entry, fetch, free_port, machine)

ENTRIES = 100_000


# The peers


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


class Direct(Peer):
    """No proxy: the client asks the upstream."""

    name = "direct"
    version = "no proxy"
    is_cache = False

    def start(self, bench, upstream, options):
        return contextlib.nullcontext(None), {"PORT": upstream, "TLS_PORT": None}


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
    body = b'{"data":{"type":"resource","attributes":{"formats":["csv"],"dataset":"issues","filters":{"introduced":{"from":"2026-01-01T00:00:00Z"}}}}}'
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
