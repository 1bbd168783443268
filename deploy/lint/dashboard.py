"""Judges a dashboard with Grafana's own types (grafana-foundation-sdk): what they do not know is lost on the way
through them.

    dashboard.py FILE
"""

import json
import sys

from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

# What Grafana reads, and these types do not have.
ALSO = {"definition", "titleFormat", "textFormat"}
EMPTY = ({}, [], "", None, False)


def lost(before, after, where=""):
    """What `before` has and `after` has not."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key, value in before.items():
            if key in after:
                yield from lost(value, after[key], f"{where}/{key}")
            elif value not in EMPTY and key not in ALSO:
                yield f"{where}/{key}: unknown to Grafana's types"
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for at, (one, other) in enumerate(zip(before, after)):
            yield from lost(one, other, f"{where}/{at}")
    elif before != after:
        yield f"{where}: {before!r} becomes {after!r}"


def through_types(document):
    return json.loads(JSONEncoder().encode(Dashboard.from_json(document)))


def main():
    plugins.register_default_plugins()
    # A check that finds nothing wrong where there is something would pass for ever.
    wrong = {"title": "x", "panels": [{"type": "timeseries", "title": "x", "unknown": 1}]}
    if not list(lost(wrong, through_types(wrong))):
        sys.exit("Grafana's types find nothing wrong where there is something")
    with open(sys.argv[1], encoding="utf-8") as file:
        document = json.load(file)
    findings = list(lost(document, through_types(document)))
    panels = [panel for panel in document["panels"] if panel["type"] != "row"]
    for panel in panels:
        if panel["gridPos"]["x"] + panel["gridPos"]["w"] > 24:
            findings.append(f"panel {panel['title']}: wider than the page")
        if {target["datasource"]["uid"] for target in panel["targets"]} != {"${datasource}"}:
            findings.append(f"panel {panel['title']}: not with the data source that was chosen")
    places = set()
    for panel in document["panels"]:
        grid = panel["gridPos"]
        cells = {(x, y) for x in range(grid["x"], grid["x"] + grid["w"]) for y in range(grid["y"], grid["y"] + grid["h"])}
        if places & cells:
            findings.append(f"panel {panel['title']}: over another one")
        places |= cells
    for finding in findings:
        print(f"FINDING: {finding}", file=sys.stderr)
    if findings:
        sys.exit(f"{len(findings)} findings, named above")
    print(f"dashboard: {len(panels)} panels, schema version {document['schemaVersion']}")


main()
