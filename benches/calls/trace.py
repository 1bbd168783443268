"""Records the calls between source files that one request causes: a hit, a miss, and a request that joins another.

    cargo build && sudo python3 benches/calls/trace.py [--show]

The kernel's uprobes stand at the entry of each function of `src` in the development build, which inlines nothing. A record
is the sequence of files that were entered, where calls within one file count once. Entries are its length, files are the
different ones in it, and returns are entries into a file that had been left before. Of several requests, the one with the
shortest record counts: the others met a timer. Wants root (tracefs), binutils.
"""

import argparse
import contextlib
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import threading

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benches"))
from servers import CLIENT_CORE, QUERY, STATUS, Bench, Exportgate, Process, entry, fetch, free_port  # noqa: E402

TRACING = pathlib.Path("/sys/kernel/tracing")
TIMES = 9
# Who runs by a timer, and is no part of a request.
TIMERS = ("app/", "watched_file.rs", "expiry.rs", "systemd.rs")
# Accessors that a debugger steps into and a reader does not.
PLAIN = ("clock.rs", "secret.rs", "shutdown.rs", "error_text.rs")


def functions(program):
    """The file of each function of ours, by its offset in the program."""
    text = subprocess.run(["nm", program], capture_output=True, text=True, check=True).stdout
    rows = (line.split() for line in text.splitlines())
    addresses = sorted({int(row[0], 16) for row in rows if len(row) == 3 and row[1] in "tT"})
    asked = "\n".join(map(hex, addresses))
    places = subprocess.run(["addr2line", "-e", program], input=asked, capture_output=True, text=True, check=True).stdout
    segments = subprocess.run(["readelf", "-lW", program], capture_output=True, text=True, check=True).stdout
    loads = [[int(number, 16) for number in found] for found in
             re.findall(r"LOAD\s+(0x\w+) (0x\w+) 0x\w+ (0x\w+) 0x\w+ R E", segments)]
    below = f"{ROOT}/src/"
    for address, place in zip(addresses, places.splitlines()):
        if place.startswith(below):
            offset = next(address - start + at for at, start, size in loads if start <= address < start + size)
            yield offset, place[len(below):].split(":")[0]


@contextlib.contextmanager
def probes(program):
    files = dict(enumerate_files(program))
    events = TRACING / "uprobe_events"
    enable = TRACING / "events/exportgate/enable"
    with contextlib.suppress(OSError):
        enable.write_text("0")
    events.write_text("")
    (TRACING / "buffer_size_kb").write_text("8192")
    file = os.open(events, os.O_WRONLY | os.O_APPEND)
    for name, (offset, _) in files.items():
        os.write(file, f"p:exportgate/{name} {program}:{offset:#x}\n".encode())
    os.close(file)
    try:
        enable.write_text("1")
        yield {name: path for name, (_, path) in files.items()}
    finally:
        enable.write_text("0")
        events.write_text("")


def enumerate_files(program):
    return ((f"f{number}", found) for number, found in enumerate(functions(program)))


def traced(names, act):
    """The files that `act` had entered, in order."""
    (TRACING / "trace").write_text("")
    (TRACING / "tracing_on").write_text("1")
    act()
    (TRACING / "tracing_on").write_text("0")
    found = re.findall(r": (f\d+): \(0x", (TRACING / "trace").read_text())
    files = [names[name] for name in found]
    files = [file for file in files if not file.startswith(TIMERS) and file not in PLAIN]
    return [file for number, file in enumerate(files) if number == 0 or files[number - 1] != file]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--show", action="store_true", help="print each record")
    parser.add_argument("--program", type=pathlib.Path, default=ROOT / "target/debug/exportgate")
    parser.add_argument("--upstream", type=pathlib.Path, default=ROOT / "target/instructions/bin/upstream")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench({"exportgate": arguments.program}, scratch, quick=True)
        bench.memory, bench.cache_mib = [], 64
        port = free_port()
        with Process([arguments.upstream, f"127.0.0.1:{port}"], CLIENT_CORE, port, bench.scratch / "upstream.log"):
            process, values = Exportgate(arguments.program).start(bench, port, {})
            with process, probes(arguments.program) as names:
                def ask(target):
                    assert fetch(values["PORT"], target)[0] == 200, target

                def unfinished(number):
                    return f"{STATUS}f0000000-0000-4000-8000-{number:012d}{QUERY}"

                def together(number):
                    threads = [threading.Thread(target=ask, args=(unfinished(number),)) for _ in range(2)]
                    for thread in threads:
                        thread.start()
                    for thread in threads:
                        thread.join()
                for number in range(5):
                    ask(entry(0))
                    ask(unfinished(number))
                kinds = {"hit": lambda _: ask(entry(0)), "miss": lambda number: ask(unfinished(100 + number)),
                         "two at once": lambda number: together(200 + number)}
                print(f"{'':12}{'entries':>9}{'files':>7}{'returns':>9}")
                for kind, act in kinds.items():
                    records = [traced(names, lambda: act(number)) for number in range(TIMES)]  # noqa: B023
                    record = min(records, key=len)
                    files = len(set(record))
                    print(f"{kind:12}{len(record):>9}{files:>7}{len(record) - files:>9}")
                    if arguments.show:
                        print("   ", " ".join(record))


if __name__ == "__main__":
    os.environ.setdefault("TOKIO_WORKER_THREADS", "1")
    main()
