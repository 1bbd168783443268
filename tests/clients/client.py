"""As published scripts do it: one session, polls the link of the start every 10 s, reads results from the job status."""

import csv
import os
import time

import requests

ROOT, ORG, TOKEN = (os.environ[name] for name in ("SNYK_API", "SNYK_ORG_ID", "SNYK_TOKEN"))
VERSION = "version=2024-10-15"

session = requests.Session()
session.headers["Authorization"] = f"token {TOKEN}"
wanted = {"formats": ["csv"], "dataset": "issues", "filters": {"introduced": {"from": "2026-01-01T00:00:00Z"}}}
body = {"data": {"type": "resource", "attributes": wanted}}
answer = session.post(f"{ROOT}/rest/orgs/{ORG}/export?{VERSION}", json=body, timeout=60)
answer.raise_for_status()
# The link has a version already; scripts that are older than that append theirs.
job = f"{ROOT}/rest{answer.json()['data']['links']['self']}?{VERSION}"
while True:
    answer = session.get(job, timeout=60)
    answer.raise_for_status()
    export = answer.json()["data"]["attributes"]
    if export["status"] == "FINISHED":
        break
    time.sleep(10)
files = []
for result in export["results"]:
    answer = requests.get(result["url"], timeout=60)
    answer.raise_for_status()
    files.append(list(csv.DictReader(answer.text.splitlines())))
print(f"{len(files)} files, {sum(map(len, files))} rows")
