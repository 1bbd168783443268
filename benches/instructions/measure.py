"""Counts instructions by callgrind and compares them with counts.json. Started by run.sh.

A pure part is done so many times, and twice as often: the difference is free of what starting takes. A whole request is
counted in the running program between two switches of callgrind, while h2load asks.
"""

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

from servers import (CLIENT_CORE, QUERY, STATUS, Bench, Exportgate, Process, Turn, entry, free_port)

COUNTS = pathlib.Path(__file__).resolve().parent / "counts.json"
# What may be added before it is told, as a share.
ALLOWED = 0.03
# How often each part is done: enough that a hundredth of it is more than what differs from run to run.
PARTS = {"route": 4000, "key": 4000, "document-1": 1000, "document-4": 500, "document-100": 50, "freshness": 4000, "entry": 4000}


def part(programs, name, scratch):
    """Instructions of one time."""
    def collected(times):
        done = subprocess.run(
            ["valgrind", "--tool=callgrind", f"--callgrind-out-file={scratch}/part.cg", programs["instructions"], name,
             str(times)], capture_output=True, text=True, timeout=300)
        if done.returncode != 0:
            raise RuntimeError(f"{name}: {done.stderr[-2000:]}")
        return int(re.search(r"Collected : (\d+)", done.stderr)[1])
    times = PARTS[name]
    return (collected(2 * times) - collected(times)) / times


class Switched(Process):
    """A server in callgrind, which counts where it is told to."""

    def __init__(self, process, file):
        command = ["valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={file}"]
        super().__init__([*command, *process.command], process.core, process.port, process.log, process.environment)
        self.file = file

    def switch(self, way):
        subprocess.run(["callgrind_control", "-i", way, str(self.pid)], check=True, capture_output=True, timeout=60)

    def counted(self):
        """After its end."""
        files = self.file.parent.glob(self.file.name + "*")
        found = (re.findall(r"^totals: (\d+)", file.read_text(), re.M) for file in files)
        return sum(int(total) for totals in found for total in totals)


def request(bench, programs, options, connections, requests, target):
    """Instructions of one request through the program, in all its threads."""
    port = free_port()
    bench.memory, bench.cache_mib = [], 64
    with Process([programs["upstream"], f"127.0.0.1:{port}"], CLIENT_CORE, port, bench.scratch / "upstream.log"):
        gateway = Exportgate(programs["exportgate"])
        process, values = gateway.start(bench, port, options)
        server = Switched(process, bench.scratch / "request.cg")
        for file in server.file.parent.glob(server.file.name + "*"):
            file.unlink()
        with server:
            turn = Turn(bench, gateway, server, values, port, options)
            fields = [part for field in turn.fields.items() for part in ("-H", ": ".join(field))]

            def ask(count):
                said = turn.command("h2load", "--h1", "-c", connections, "-n", count, *fields, turn.url(target))
                turn.expect("the number of answers", re.search(r"(\d+) succeeded", said)[1], str(count))
            # The first is a miss; the rest finds its connections, its code and its memory warm.
            turn.expect("the status", turn.get(target)[0], 200)
            ask(requests // 4)
            server.switch("on")
            ask(requests)
            server.switch("off")
        return server.counted() / requests


REQUESTS = {
    "request-hit": ({}, 64, 6_400, entry(0)),
    "request-hit-log-key": ({"log": True, "key": True}, 64, 6_400, entry(0)),
    # One at a time: equal ones at the same time would be one.
    "request-pending": ({}, 1, 1_500, f"{STATUS}f0000000-0000-4000-8000-000000000000{QUERY}"),
}


def version(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--save", action="store_true", help="write what was counted into the file")
    parser.add_argument("--programs", required=True, type=pathlib.Path)
    parser.add_argument("--out", required=True, type=pathlib.Path)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join([*PARTS, *REQUESTS]))
    arguments = parser.parse_args()
    unknown = set(arguments.names) - PARTS.keys() - REQUESTS.keys()
    if unknown:
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are: {', '.join([*PARTS, *REQUESTS])}")
    names = arguments.names or [*PARTS, *REQUESTS]
    programs = {path.name: path for path in arguments.programs.resolve().iterdir()}
    about = {"rustc": version("rustc", "--version"), "valgrind": version("valgrind", "--version"),
             "machine": os.uname().machine}
    saved = json.loads(COUNTS.read_text()) if COUNTS.exists() else {"made with": about, "instructions": {}}
    if saved["made with"] != about:
        print(f"The file was made with {saved['made with']}, this is {about}: that may be all the difference.")
    arguments.out.mkdir(parents=True, exist_ok=True)
    dearer, counts = [], dict(saved["instructions"])
    print(f"{'':22}{'file':>10}{'now':>10}")
    with tempfile.TemporaryDirectory(dir=arguments.out) as scratch:
        bench = Bench(programs, scratch, quick=True)
        for name in names:
            if name in PARTS:
                now = part(programs, name, scratch)
            else:
                now = request(bench, programs, *REQUESTS[name])
            now, before = round(now), counts.get(name)
            if before:
                print(f"{name:22}{before:>10,}{now:>10,}  {now / before - 1:+.1%}", flush=True)
                if now > before * (1 + ALLOWED):
                    dearer.append(name)
            else:
                print(f"{name:22}{'':>10}{now:>10,}", flush=True)
            counts[name] = now
    if arguments.save:
        COUNTS.write_text(json.dumps({"made with": about, "instructions": counts}, indent=2, sort_keys=True) + "\n")
    elif dearer:
        sys.exit(f"more than {ALLOWED:.0%} dearer: {', '.join(dearer)}. Make it cheaper, or say why in the commit and --save")


if __name__ == "__main__":
    main()
