"""Asks a real Prometheus every query of the dashboard and the rules. Called by check.sh."""

import functools
import http.server
import itertools
import json
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

# A target's own labels, and those that Prometheus puts on every target.
TARGET = {"job", "instance", "le"}
# Series of Prometheus itself.
OWN = {"up", "ALERTS"}
# What Grafana puts in place of its variables. All of the file is within the last minute.
VARIABLES = {
    "$__rate_interval": "1m",
    "$__interval": "15s",
    "$__range": "1m",
    "$job": ".*",
    "$instance": ".*",
}
# Families that have samples only where there is TLS, an OAuth credential, or an answer of the gateway's own; with the
# labels that are theirs. Where the file has none, the name itself cannot be checked, and that is said.
MAY_BE_MISSING = {
    "exportgate_credential_expiry_timestamp_seconds": {"credential", "slot"},
    "exportgate_errors_total": {"code"},
    "exportgate_tls_certificate_expiry_timestamp_seconds": set(),
}
NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
findings = []


def finding(text):
    findings.append(text)
    print(f"FINDING: {text}", file=sys.stderr)


def families(text):
    """The families that a metrics file announces, and the label names of each series name that has samples."""
    announced, labels = set(), {}
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            announced.add(name)
            if kind == "histogram":
                announced |= {name + end for end in ("_bucket", "_sum", "_count")}
        elif line and not line.startswith("#"):
            match = re.match(rf"({NAME})(?:\{{(.*)\}})? ", line)
            found = labels.setdefault(match[1], set())
            found |= set(re.findall(rf'({NAME})="(?:[^"\\]|\\.)*"', match[2] or ""))
    return announced, labels


def parts(query):
    """Metric names, and (metric, label) pairs; a label that stands in no selector belongs to None."""
    for match in re.finditer(rf"({NAME})\{{([^}}]*)\}}", query):
        for label in re.findall(rf"({NAME})\s*(?:=~|!~|!=|=)", match[2]):
            yield match[1], label
    bare = re.sub(r'"(?:[^"\\]|\\.)*"', '""', query)
    for match in re.finditer(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)", bare):
        for label in match[1].split(","):
            if label.strip():
                yield None, label.strip()
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]", "", bare)
    bare = re.sub(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", "", bare)
    for match in re.finditer(rf"\b({NAME})\b(?!\s*\()", bare):
        if match[1].startswith(("exportgate", "process_")) or match[1] in OWN:
            yield match[1], None


def judge_names(where, query, recorded, announced, labels, extra=()):
    """Every metric and label is one that the file has; gives the metrics that are used."""
    used = {metric for metric, _ in parts(query) if metric}
    known = set(TARGET)
    for metric in sorted(used):
        if metric in recorded or metric in OWN:
            known |= recorded.get(metric, set())
        elif metric in labels and metric in announced:
            known |= labels[metric]
        elif metric in MAY_BE_MISSING:
            known |= MAY_BE_MISSING[metric]
        elif metric not in announced:
            finding(f"{where}: no such metric: {metric}")
        else:
            finding(f"{where}: {metric} has no sample to judge by")
    for metric, label in sorted({*parts(query), *((None, name) for name in extra)}, key=str):
        if label and metric in labels and label not in labels[metric] | TARGET:
            finding(f"{where}: {metric} has no label {label}")
        elif label and label not in known:
            finding(f"{where}: no metric in it has a label {label}")
    return used


def grown(text, times):
    """`text` with all that counts so many times as large; what is 0 stays so."""
    counts, lines = set(), []
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            if kind == "counter":
                counts.add(name)
            elif kind == "histogram":
                counts |= {name + end for end in ("_bucket", "_sum", "_count")}
        elif line and not line.startswith("#") and re.match(NAME, line)[0] in counts:
            series, _, value = line.rpartition(" ")
            line = f"{series} {float(value) * times}"
        lines.append(line)
    return "\n".join(lines) + "\n"


class Served(http.server.BaseHTTPRequestHandler):
    """The metrics file, as a gateway in use would give it: its counters grow from scrape to scrape."""

    scrapes = itertools.count(1)

    def __init__(self, text, *args):
        self.text = text
        super().__init__(*args)

    def do_GET(self):  # noqa: N802 (the base class's name)
        body = grown(self.text, next(self.scrapes)).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Prometheus:
    """A Prometheus for as long as the check takes."""

    def __init__(self, scratch, target, rules):
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        configuration = scratch / "prometheus.yml"
        configuration.write_text(
            "global: {scrape_interval: 1s, evaluation_interval: 1s}\n"
            f"rule_files: ['{rules}']\n"
            "scrape_configs:\n"
            f"  - {{job_name: exportgate, static_configs: [{{targets: ['127.0.0.1:{target}']}}]}}\n"
        )
        self.log = (scratch / "prometheus.log").open("w+")
        self.process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={configuration}",
                f"--storage.tsdb.path={scratch / 'data'}",
                f"--web.listen-address=127.0.0.1:{self.port}",
            ],
            stdout=self.log,
            stderr=self.log,
        )

    def ask(self, path, **query):
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(url, timeout=10) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            return json.load(error)

    def wait(self, query, until, seconds=60):
        """Waits until the answer to `query` is as `until` wants it."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.process.poll() is not None:
                break
            try:
                if until(self.ask("query", query=query)["data"]["result"]):
                    return
            except (OSError, LookupError, ValueError):
                pass
            time.sleep(0.3)
        self.log.seek(0)
        sys.exit(f"Prometheus did not come so far: {query}\n{self.log.read()[-3000:]}")

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def grafana(text):
    """`text` with Grafana's variables replaced, the longest names first."""
    for name in sorted(VARIABLES, key=len, reverse=True):
        text = text.replace(name, VARIABLES[name])
    return text


def queries_of(dashboard):
    """(where, query, legend) of each panel, annotation and variable."""
    for panel in dashboard["panels"]:
        for inner in [panel, *panel.get("panels", [])]:
            for target in inner.get("targets", []):
                where = f"panel {inner['title']}, query {target['refId']}"
                yield where, target["expr"], target["legendFormat"]
    for annotation in dashboard["annotations"]["list"]:
        if "expr" in annotation:
            yield f"annotation {annotation['name']}", annotation["expr"], annotation.get("textFormat", "")


def judge_dashboard(prometheus, dashboard, announced, labels):
    asked = 0
    for where, query, legend in queries_of(dashboard):
        asked += 1
        wanted = re.findall(r"\{\{\s*(\w+)\s*\}\}", legend)
        used = judge_names(where, query, {}, announced, labels, wanted)
        answer = prometheus.ask("query", query=grafana(query))
        if answer["status"] != "success":
            finding(f"{where}: {answer['error']}: {query}")
            continue
        result = answer["data"]["result"]
        if where.startswith("annotation"):
            continue  # Nothing has started while this ran.
        if not result and used & MAY_BE_MISSING.keys() - labels.keys():
            continue
        if not result:
            finding(f"{where}: no answer: {query}")
        for series in result:
            missing = [name for name in wanted if name not in series["metric"]]
            if missing:
                finding(f"{where}: the answer has no label {', '.join(missing)} for its legend")
                break
    for variable in dashboard["templating"]["list"]:
        if variable["type"] != "query":
            continue
        call = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"])
        answer = prometheus.ask(f"label/{call[2]}/values", **{"match[]": grafana(call[1])})
        if not answer.get("data"):
            finding(f"variable {variable['name']}: no value")
    ids = [panel["id"] for panel in dashboard["panels"]]
    if len(ids) != len(set(ids)):
        finding("the dashboard has panels with the same id")
    return asked


def judge_rules(prometheus, announced, labels, tests, runbook):
    groups = prometheus.ask("rules")["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    recorded = {}
    for rule in rules:
        if rule["type"] == "recording":
            # The labels that the recorded series have are those that Prometheus gives them.
            result = prometheus.ask("query", query=rule["name"])["data"]["result"]
            recorded[rule["name"]] = {name for series in result for name in series["metric"]}
            if not result:
                finding(f"rule {rule['name']}: it records nothing")
    anchors = {
        re.sub(r"[^\w\- ]", "", line.lstrip("#").strip().lower()).replace(" ", "-")
        for line in runbook.splitlines()
        if line.startswith("#")
    }
    for rule in rules:
        where = f"rule {rule['name']}"
        # Prometheus sends the parsed query: its own spelling, in one line.
        judge_names(where, rule["query"], recorded, announced, labels)
        if rule["health"] != "ok":
            finding(f"{where}: {rule['health']}: {rule.get('lastError', '')}")
        if rule["type"] == "recording":
            continue
        if rule["labels"].get("severity") not in ("critical", "warning"):
            finding(f"{where}: no severity")
        if not re.search(rf'alertname[=:]\s*"?{rule["name"]}\b', tests):
            finding(f"{where}: it has no test")
        for name in ("summary", "description"):
            if not rule["annotations"].get(name):
                finding(f"{where}: no {name}")
        anchor = rule["annotations"].get("runbook_url", "").partition("docs/operations.md#")[2]
        if anchor not in anchors:
            finding(f"{where}: docs/operations.md has no section #{anchor}")
    return len(rules)


def main():
    metrics, rules, tests, dashboard, runbook = map(pathlib.Path, sys.argv[1:])
    text = metrics.read_text()
    announced, labels = families(text)
    runbook = runbook.read_text() if runbook.exists() else ""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Served, text))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as scratch:
        prometheus = Prometheus(pathlib.Path(scratch), server.server_address[1], rules.resolve())
        try:
            # Rates need two samples; the rules are to have seen them.
            prometheus.wait("count_over_time(up[1m])", lambda result: float(result[0]["value"][1]) >= 5)
            prometheus.wait("up", lambda result: result[0]["value"][1] == "1")
            prometheus.wait("exportgate:requests:rate5m", bool)
            time.sleep(2)
            asked = judge_dashboard(prometheus, json.loads(dashboard.read_text()), announced, labels)
            judged = judge_rules(prometheus, announced, labels, tests.read_text(), runbook)
        finally:
            prometheus.stop()
            server.shutdown()
    for metric in sorted(MAY_BE_MISSING.keys() - labels.keys()):
        print(f"######## {metric}: NOT CHECKED (the metrics file has no sample of it) ########")
    if findings:
        sys.exit(f"{len(findings)} findings, named above")
    print(f"Prometheus: {asked} queries of the dashboard answered, {judged} rules evaluated")


main()
