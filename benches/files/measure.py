"""Downloads side by side. Started by run.sh."""

import argparse
import contextlib
import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import pages
from servers import CLIENT_CORE, SERVER_CORE, Process, cpu_seconds, fetch, free_port, machine, peak_memory

ROUNDS = 5
PARTS = 16
MIB = 1 << 20
ORG = "825e79b7-0073-44c3-a5ea-e0aa8a3dbf38"
SCOPE = f"/rest/orgs/{ORG}"
QUERY = "?version=2024-10-15"
START = json.dumps({"data": {"type": "resource", "attributes": {
    "dataset": "issues", "formats": ["csv"], "filters": {"introduced": {"from": "2026-01-01T00:00:00Z"}}}}})
NGINX = """
daemon off; worker_processes 1; pid @DIR@/pid; error_log stderr; events {}
http {
  access_log off; client_body_temp_path @DIR@; proxy_temp_path @DIR@; fastcgi_temp_path @DIR@; uwsgi_temp_path @DIR@; scgi_temp_path @DIR@;
  server { listen 127.0.0.1:@PORT@; location / { proxy_pass http://127.0.0.1:@STORE@; proxy_http_version 1.1;
    proxy_set_header Connection ""; proxy_set_header Host $http_host; proxy_max_temp_file_size 0; } }
}
"""
SCRIPT = """
import concurrent.futures, shutil, sys, requests
def one(job):
    number, link = job
    with requests.get(link, stream=True, timeout=60) as answer, open(f"{sys.argv[1]}/{number}", "wb") as file:
        answer.raise_for_status()
        shutil.copyfileobj(answer.raw, file, 1 << 20)
with concurrent.futures.ThreadPoolExecutor(4) as pool:
    list(pool.map(one, enumerate(sys.argv[3:])))
with open(sys.argv[2], "wb") as out:
    for number in range(len(sys.argv) - 3):
        with open(f"{sys.argv[1]}/{number}", "rb") as part:
            if number:
                part.readline()
            shutil.copyfileobj(part, out, 1 << 20)
"""


class Servers:
    """A fake Snyk with its store, the gateway before it, and nginx before the store."""

    def __init__(self, program, scratch, parts, size, hash_field):
        self.program, self.scratch, self.parts, self.size, self.hash = program, scratch, parts, size, hash_field

    def __enter__(self):
        self.stack = contextlib.ExitStack()
        try:
            self.start(self.stack)
        except BaseException:
            self.stack.close()
            raise
        return self

    def start(self, stack):
        self.store, self.port, self.nginx = free_port(), free_port(), free_port()
        fake = [self.program, "fake-snyk", "--listen", f"127.0.0.1:{self.store}", "--plain", "--polls", "0", "--part-count",
                self.parts, "--part-size", self.size, "--hash", self.hash]
        stack.enter_context(Process(fake, CLIENT_CORE, self.store, self.scratch / "fake.log"))
        self.config = self.scratch / "exportgate.toml"
        self.config.write_text(f"""
listen = ["127.0.0.1:{self.port}"]
upstream.url = "http://127.0.0.1:{self.store}"
files.origins = ["http://127.0.0.1:{self.store}"]
journal.path = "{self.scratch}/journal.db"
admin.listen = ""
log.filter = "warn"
""")
        serve = [self.program, "serve", "--config", self.config]
        self.gateway = stack.enter_context(
            Process(serve, SERVER_CORE, self.port, self.scratch / "log", {"SNYK_TOKEN": "bench-credential"}))
        text = NGINX.replace("@DIR@", str(self.scratch)).replace("@PORT@", str(self.nginx)).replace("@STORE@", str(self.store))
        (self.scratch / "nginx.conf").write_text(text)
        nginx = ["nginx", "-p", self.scratch, "-c", self.scratch / "nginx.conf"]
        self.proxy = stack.enter_context(Process(nginx, SERVER_CORE, self.nginx, self.scratch / "nginx.log"))

    def __exit__(self, *_):
        self.stack.close()

    def finished(self):
        """A finished export, and its links."""
        status, body, _ = fetch(self.port, f"{SCOPE}/export{QUERY}", {"Content-Type": "application/json"}, "POST", START)
        assert status == 202, (status, body)
        export = json.loads(body)["data"]["id"]
        fetch(self.port, f"{SCOPE}/jobs/export/{export}{QUERY}")
        status, body, _ = fetch(self.port, f"{SCOPE}/export/{export}{QUERY}")
        assert status == 200, (status, body)
        return export, re.findall(r"http://[^\"]+", body.decode())


def through(server, url, size):
    """CPU time for a MiB in microseconds, and its peak memory in MiB."""
    before = cpu_seconds(server.pid)
    began = time.monotonic()
    done = subprocess.run(["taskset", "-c", CLIENT_CORE, "curl", "-sf", "-o", "/dev/null", "-w", "%{size_download}", url],
                          capture_output=True, text=True, check=True)
    assert int(done.stdout) >= size, done.stdout
    mib = int(done.stdout) / MIB
    return {"cpu_us_per_mib": (cpu_seconds(server.pid) - before) * 1e6 / mib, "mib_per_s": mib / (time.monotonic() - began),
            "memory_mib": peak_memory(server.pid)}


def timed(command, environment=None):
    """Wall time in seconds, CPU time, and peak memory in MiB."""
    began = time.monotonic()
    done = subprocess.run(["/usr/bin/time", "-f", "%M %U %S", *map(str, command)], capture_output=True, text=True,
                          env={**os.environ, **(environment or {})})
    assert done.returncode == 0, done.stderr[-2000:]
    memory, user, system = done.stderr.strip().splitlines()[-1].split()
    return {"seconds": time.monotonic() - began, "cpu_s": float(user) + float(system), "memory_mib": int(memory) / 1024}


def fetchers(servers, scratch):
    """The ways to get all parts."""
    out = scratch / "out"

    def clean():
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()

    def by_fetch():
        clean()
        return timed([servers.program, "fetch", "issues", "--org", ORG, "--since", "30d", "--via",
                      f"http://127.0.0.1:{servers.port}", "--progress", "none", "-o", out / "table.csv"])

    def alone():
        clean()
        return timed([servers.program, "fetch", "issues", "--org", ORG, "--since", "30d", "--config", servers.config,
                      "--progress", "none", "-o", out / "table.csv"], {"SNYK_TOKEN": "bench-credential"})

    def aria2c():
        clean()
        _, links = servers.finished()
        (scratch / "links").write_text("".join(f"{link}\n out={number}.csv\n" for number, link in enumerate(links)))
        return timed(["aria2c", "-q", "-x4", "-j4", "-d", out, "-i", scratch / "links"])

    def script():
        clean()
        _, links = servers.finished()
        return timed([sys.executable, "-c", SCRIPT, out, out / "table.csv", *links])
    return {"fetch through the gateway": by_fetch, "fetch by itself": alone, "aria2c -x4 (no table)": aria2c,
            "a script with requests": script}


def by_proxies(out, program, size):
    """A large file through both proxies in turn, without and with a hash of the store's that the gateway proves it by."""
    results = {}
    for hash_field, proven in (("absent", ""), ("one-line", ", CRC32C proven")):
        with scratch_in(out) as scratch, Servers(program, scratch, "1", f"{size >> 20}MiB", hash_field) as servers:
            export, links = servers.finished()
            path = links[0].split("/", 3)[3]
            file = f"http://127.0.0.1:{servers.port}{SCOPE}/export/{export}/files/1.csv{QUERY}"
            peer = f"http://127.0.0.1:{servers.nginx}/{path}"
            ways = [(f"exportgate{proven}", servers.gateway, file), (f"nginx{proven and ', in those rounds'}", servers.proxy, peer)]
            rounds = {name: [] for name, _, _ in ways}
            # The store reads it once for its hash.
            through(*ways[0][1:], size)
            for number in range(ROUNDS):
                for name, server, url in ways if number % 2 else reversed(ways):
                    rounds[name].append(through(server, url, size))
            results |= medians(rounds)
            of_nginx = results[ways[1][0]]["cpu_us_per_mib"]
            for name, _, _ in ways:
                results[name]["to_nginx"] = results[name]["cpu_us_per_mib"] / of_nginx
    return results


def by_fetchers(out, program, size):
    """The parts of an export as files on the disk."""
    results = {}
    with scratch_in(out) as scratch, Servers(program, scratch, str(PARTS), f"{size >> 20}MiB", "one-line") as servers:
        ways = fetchers(servers, scratch)
        for number in range(ROUNDS):
            for name in ways if number % 2 else reversed(ways):
                results.setdefault(name, []).append(ways[name]())
    return medians(results)


@contextlib.contextmanager
def scratch_in(out):
    with tempfile.TemporaryDirectory(dir=out) as name:
        scratch = pathlib.Path(name)
        # nginx's worker is another user.
        scratch.chmod(0o755)
        yield scratch


def medians(results):
    return {name: {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
            for name, rounds in results.items()}


def table(results, columns):
    lines = ["| | " + " | ".join(title for title, _, _ in columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, result in results.items():
        lines.append(f"| {name} | " + " | ".join(form.format(result[key]) for _, key, form in columns) + " |")
    return "\n".join(lines)


def page(proxies, fetched, size, part):
    about = machine()
    busy = "\n**The machine was busy: trust the ratios alone.**\n" if about["load"] > 1.5 else ""
    return f"""## Files

```sh
benches/files/run.sh
```

{about["processor"]}, {about["cores"]} cores, {about["memory_gib"]} GiB, Linux {about["kernel"]}; {time.strftime("%Y-%m-%d")}. Medians of {ROUNDS} rounds
in turn. Server on one core, store and client on the other, loopback without TLS. The rows are short and full of quotes,
which is hard for the gateway: it follows each quote.
{busy}
One part of {size >> 20} MiB by curl, through the gateway and through nginx's `proxy_pass` of the same store. Processor time is that of
the proxy.

{table(proxies, [("**CPU µs/MiB**", "cpu_us_per_mib", "**{:.0f}**"), ("× nginx", "to_nginx", "{:.2f}"),
                 ("MiB/s", "mib_per_s", "{:.0f}"), ("peak MiB", "memory_mib", "{:.0f}")])}

{PARTS} parts of {part >> 20} MiB to the disk. `fetch` starts the export and proves and merges its parts; the script merges them; aria2c
leaves them as they are. The last two get the links for nothing. Processor time and memory are those of the client.

{table(fetched, [("seconds", "seconds", "{:.2f}"), ("CPU s", "cpu_s", "{:.2f}"), ("peak MiB", "memory_mib", "{:.0f}")])}
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("page", type=pathlib.Path)
    parser.add_argument("--quick", action="store_true", help="a sixteenth of the size, to see that all works")
    arguments = parser.parse_args()
    size, part = (1 << 26, 1 << 22) if arguments.quick else (1 << 30, 1 << 26)
    out, program = arguments.out, arguments.out / "bin/exportgate"
    text = page(by_proxies(out, program, size), by_fetchers(out, program, part), size, part)
    pages.put(arguments.page, "files", text)
    print(text)


if __name__ == "__main__":
    main()
