"""Downloads side by side. Started by run.sh."""

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

from servers import CLIENT_CORE, SERVER_CORE, Process, cpu_seconds, fetch, free_port, peak_memory

ROUNDS = 3
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

    def __init__(self, program, scratch, parts, size):
        self.program, self.scratch, self.parts, self.size = program, scratch, parts, size

    def __enter__(self):
        stack = self.stack = contextlib.ExitStack()
        self.store, self.port, self.nginx = free_port(), free_port(), free_port()
        fake = [self.program, "fake-snyk", "--listen", f"127.0.0.1:{self.store}", "--plain", "--polls", "0", "--part-count",
                self.parts, "--part-size", self.size, "--hash", "absent"]
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
        return self

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
    """The three ways to get all parts."""
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
            "script with requests": script}


def show(results):
    for name, rounds in results.items():
        middle = {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
        print(f"{name:28}" + "".join(f"{key} {value:10.2f}   " for key, value in middle.items()), flush=True)


def main():
    out = pathlib.Path(sys.argv[1])
    program = out / "bin/exportgate"
    results = {}
    with tempfile.TemporaryDirectory(dir=out) as name:
        scratch = pathlib.Path(name)
        scratch.chmod(0o755)
        with Servers(program, scratch, "1", "1GiB") as servers:
            export, links = servers.finished()
            path = links[0].partition("/")[2].partition("/")[2].partition("/")[2]
            for _ in range(ROUNDS):
                table = f"http://127.0.0.1:{servers.port}{SCOPE}/export/{export}/files/1.csv{QUERY}"
                results.setdefault("exportgate, 1 GiB", []).append(through(servers.gateway, table, 1 << 30))
                results.setdefault("nginx, 1 GiB", []).append(
                    through(servers.proxy, f"http://127.0.0.1:{servers.nginx}/{path}", 1 << 30))
        show(results)
    fetched = {}
    with tempfile.TemporaryDirectory(dir=out) as name:
        scratch = pathlib.Path(name)
        scratch.chmod(0o755)
        with Servers(program, scratch, "16", "64MiB") as servers:
            for _ in range(ROUNDS):
                for name, act in fetchers(servers, scratch).items():
                    fetched.setdefault(name, []).append(act())
        show(fetched)
    (out / "results.json").write_text(json.dumps({**results, **fetched}, indent=2))


if __name__ == "__main__":
    main()
