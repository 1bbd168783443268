"""Judges the Helm chart with Helm's own engine (as a library), and all manifests with Kubernetes' own schemas.

    chart.py CHART RENDERED MANIFEST...

Each file of CHART/ci is one set of values. What was rendered is left in the directory RENDERED.
"""

import pathlib
import re
import sys

import kubernetes_validate
import pydantic
import yaml
from cloudcoil.models.prometheus_operator import v1 as operator
from helm_python import HelmError
from helm_python.chart import Chart, lint

# The oldest that the chart is for, one of now, and the newest that there are schemas of.
VERSIONS = ("1.25", "1.31", kubernetes_validate.latest_version().rpartition(".")[0])
# Kinds that Kubernetes itself does not know: the Prometheus operator's.
FOREIGN = {"ServiceMonitor": operator.ServiceMonitor, "PodMonitor": operator.PodMonitor}
# Values that must be refused, and what the refusal says.
REFUSED = {
    "nothing set": ({}, "existingSecret"),
    "no clients": ({"snyk": {"existingSecret": "s"}, "tls": {"existingSecret": "t"}}, "clients.inline"),
    "two kinds of clients": ({"clients": {"inline": "x", "existingSecret": "c"}}, "exactly one"),
    "a claim for two pods": ({"replicas": 2, "journal": {"persistence": {"enabled": True}}}, "replicas = 1"),
    "more pods than gateways": ({"replicas": 4, "shared": {"existingSecret": "v"}}, "5 pods may live at once"),
    "an engine that cannot be reached": ({"shared": {"existingSecret": "v"}}, "networkPolicy.shared"),
    "one claim for many pods": ({"shared": {"existingSecret": "v"}, "networkPolicy": {"shared": [{}]},
                                 "journal": {"persistence": {"enabled": True, "existingClaim": "j"}}}, "existingClaim"),
    "a claim for two that overlap": ({"zeroDowntime": True, "journal": {"persistence": {"enabled": True}}}, "zeroDowntime"),
    "a monitor of a loopback address": ({"monitor": {"enabled": True}}, "admin.existingSecret"),
    "an unknown value": ({"replica": 2}, "replica"),
    "an unknown region": ({"snyk": {"existingSecret": "s", "region": "mars"}}, "region"),
    "no replica": ({"replicas": 0}, "replicas"),
}
LEAST = {"clients": {"existingSecret": "c"}, "snyk": {"existingSecret": "s"}, "tls": {"existingSecret": "t"}}
findings = []


def finding(text):
    findings.append(text)
    print(f"FINDING: {text}", file=sys.stderr)


def merged(under, over):
    out = dict(under)
    for key, value in over.items():
        out[key] = merged(out[key], value) if isinstance(value, dict) and isinstance(out.get(key), dict) else value
    return out


def judge_manifest(where, text, versions):
    """Against the schemas, where nothing is allowed that they do not name."""
    documents = [document for document in yaml.safe_load_all(text) if document]
    for document in documents:
        kind = document["kind"]
        if kind in FOREIGN:
            judge_foreign(where, document)
            continue
        for version in versions:
            try:
                kubernetes_validate.validate(document, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                finding(f"{where}: {kind} is not valid in Kubernetes {version}: {error.message} at {list(error.path)}")
        for pod in pods(document):
            judge_pod(where, pod)
    return documents


def judge_foreign(where, document):
    """Against the operator's types: what they do not know is lost on the way through them."""
    try:
        known = FOREIGN[document["kind"]].model_validate(document)
    except pydantic.ValidationError as error:
        finding(f"{where}: {error}")
        return
    known = known.model_dump(mode="json", by_alias=True, exclude_none=True)
    for at in unknown(document, known):
        finding(f"{where}: {document['kind']} has no {at}")


def unknown(before, after, at=""):
    if isinstance(before, dict):
        for key, value in before.items():
            if key in after:
                yield from unknown(value, after[key], f"{at}/{key}")
            else:
                yield f"{at}/{key}"
    elif isinstance(before, list):
        for index, (one, other) in enumerate(zip(before, after)):
            yield from unknown(one, other, f"{at}/{index}")


def pods(document):
    kind, spec = document["kind"], document.get("spec", {})
    if kind == "CronJob":
        yield spec["jobTemplate"]["spec"]["template"]["spec"]
    elif kind in ("Deployment", "StatefulSet", "Job"):
        yield spec["template"]["spec"]


def judge_pod(where, pod):
    """What the Pod Security Standard `restricted` wants, and what exportgate needs."""
    if not pod["securityContext"].get("runAsNonRoot"):
        finding(f"{where}: not runAsNonRoot")
    if pod["securityContext"].get("seccompProfile") != {"type": "RuntimeDefault"}:
        finding(f"{where}: no seccompProfile")
    if pod.get("automountServiceAccountToken") is not False:
        finding(f"{where}: the service account's token is mounted")
    if pod.get("enableServiceLinks") is not False:
        finding(f"{where}: a variable is set for each Service (enableServiceLinks)")
    for container in [*pod.get("initContainers", []), *pod["containers"]]:
        name, context = container["name"], container["securityContext"]
        if context.get("allowPrivilegeEscalation") is not False or context.get("capabilities") != {"drop": ["ALL"]}:
            finding(f"{where}: the container {name} may gain privileges")
        if not context.get("readOnlyRootFilesystem"):
            finding(f"{where}: the container {name} can write to its root")
        if any("subPath" in mount for mount in container.get("volumeMounts", [])):
            finding(f"{where}: a subPath is never updated")
        if name != "exportgate":
            continue
        variables = environment(container)
        seconds = [float(variables.get(f"EXPORTGATE_SHUTDOWN_{key}", usual).rstrip("s"))
                   for key, usual in (("DELAY", "0.5s"), ("DRAIN", "30s"))]
        if pod["terminationGracePeriodSeconds"] <= sum(seconds):
            finding(f"{where}: terminationGracePeriodSeconds is not longer than shutdown.delay and shutdown.drain")
        for probe in ("startupProbe", "livenessProbe"):
            if probe not in container:
                finding(f"{where}: no {probe}")


def environment(container):
    """Its variables. Those from a Secret have a value that the program takes."""
    stand_ins = {"url": "rediss://valkey.example:6379", "user": "exportgate"}
    return {entry["name"]: entry.get("value") or stand_ins[entry["valueFrom"]["secretKeyRef"]["key"]]
            for entry in container["env"]}


def judge_release(where, values, documents):
    """What a schema cannot say about a release."""
    (deployment,) = [document for document in documents if document["kind"] in ("Deployment", "StatefulSet")]
    spec = deployment["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    variables = environment(container)
    surge = spec.get("strategy", {}).get("rollingUpdate", {}).get("maxSurge", 0)
    processes = spec["replicas"] + surge
    is_shared = "EXPORTGATE_SHARED_URL" in variables
    if is_shared and processes > int(variables["EXPORTGATE_SHARED_GATEWAYS"]):
        finding(f"{where}: {processes} pods may live at once, more than shared.gateways")
    if is_shared and spec["replicas"] > 1 and not any(document["kind"] == "PodDisruptionBudget" for document in documents):
        finding(f"{where}: several replicas and no PodDisruptionBudget")
    together = (1 if is_shared else processes) * float(variables.get("EXPORTGATE_BUDGET_SHARE", 1))
    most = values.get("budgetShare", 1)
    if not 0.99 * most <= together <= most:
        finding(f"{where}: all processes together have {together} of the budget, not {most}")
    if set(spec["selector"]["matchLabels"].items()) - set(spec["template"]["metadata"]["labels"].items()):
        finding(f"{where}: the selector does not find the pods")
    names = {volume["name"] for volume in spec["template"]["spec"]["volumes"]}
    names |= {claim["metadata"]["name"] for claim in spec.get("volumeClaimTemplates", [])}
    if {mount["name"] for mount in container["volumeMounts"]} != names:
        finding(f"{where}: volumes and mounts do not fit")
    (policy,) = [document for document in documents if document["kind"] == "NetworkPolicy"]
    for rule in [*policy["spec"]["ingress"], *policy["spec"]["egress"]]:
        if not rule.get("from", rule.get("to")) or not rule.get("ports"):
            finding(f"{where}: a rule of the NetworkPolicy allows everybody or every port")
    admin = "EXPORTGATE_ADMIN_TOKEN_FILE" in variables
    if admin != ("httpGet" in container["readinessProbe"]) or admin == variables["EXPORTGATE_ADMIN_LISTEN"].startswith("127."):
        finding(f"{where}: the probes do not fit the admin listener")


def leave_settings(stem, rendered, documents):
    """Leaves the environment of each gateway and its file, for the program itself to judge (deploy/lint.sh)."""
    for document in documents:
        for pod in pods(document):
            for container in [*pod.get("initContainers", []), *pod["containers"]]:
                if container["name"] != "exportgate":
                    continue
                variables = environment(container)
                if "EXPORTGATE_CONFIG" in variables:
                    variables["EXPORTGATE_CONFIG"] = str(rendered / f"{stem}.toml")
                text = "".join(f"{name}={value}\0" for name, value in variables.items())
                (rendered / f"{stem}.env").write_text(text)
        for name, text in document.get("data", {}).items():
            if name == "exportgate.toml":
                (rendered / f"{stem}.toml").write_text(text)


def judge_chart(path, rendered):
    sets = 0
    for file in sorted((path / "ci").glob("*.yaml")):
        sets += 1
        where = f"{path.name} with {file.name}"
        values = yaml.safe_load(file.read_text())
        for message in lint(path, values, strict=True)["messages"]:
            # Level 1 only recommends an icon.
            if message["severity"] > 1:
                finding(f"{where}: {message['error']}")
        with Chart.load(path) as chart:
            chart.validate_schema(values)
            files = chart.render(values, name="gateway", namespace="security")
        text = ""
        for name, manifest in sorted(files.items()):
            if manifest.strip() and not name.endswith("NOTES.txt"):
                text += f"---\n# {name}\n{manifest.strip()}\n"
        (rendered / f"{file.stem}.yaml").write_text(text)
        documents = judge_manifest(where, text, VERSIONS)
        judge_release(where, values, documents)
        leave_settings(file.stem, rendered, documents)
    if not sets:
        finding(f"{path / 'ci'} has no values")
    for name, (values, wanted) in REFUSED.items():
        values = values if name in ("nothing set", "no clients") else merged(LEAST, values)
        try:
            with Chart.load(path) as chart:
                chart.validate_schema(values)
                chart.render(values, name="gateway", namespace="security")
        except HelmError as error:
            if wanted not in str(error):
                finding(f"{name} is refused, but the reason does not name {wanted}: {error}")
        else:
            finding(f"the chart does not refuse {name}")
    return sets


def main():
    path, rendered, *manifests = (pathlib.Path(name).resolve() for name in sys.argv[1:])
    rendered.mkdir(parents=True, exist_ok=True)
    # A validator that finds nothing wrong whatever it is given would pass for ever.
    try:
        kubernetes_validate.validate({"apiVersion": "v1", "kind": "Pod", "spec": {"containers": 3}}, VERSIONS[0], strict=True)
    except kubernetes_validate.ValidationError:
        pass
    else:
        sys.exit("kubernetes-validate finds nothing wrong where there is something")
    sets = judge_chart(path, rendered)
    for manifest in manifests:
        # Native sidecars are in the schemas from 1.28 on.
        newer = [version for version in VERSIONS if version != "1.25"]
        leave_settings(manifest.stem, rendered, judge_manifest(manifest.name, manifest.read_text(), newer))
    chart = yaml.safe_load((path / "Chart.yaml").read_text())
    package = re.search(r'^version = "(.*)"', (path.parents[2] / "Cargo.toml").read_text(), re.MULTILINE)[1]
    if chart["appVersion"] != package:
        finding(f"the chart is for {chart['appVersion']}, and the program is {package}")
    if findings:
        sys.exit(f"{len(findings)} findings, named above")
    print(f"chart: {sets} sets of values, {len(REFUSED)} that must be refused; Kubernetes {', '.join(VERSIONS)}")


main()
