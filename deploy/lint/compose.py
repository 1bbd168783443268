"""Judges the Compose file, as Docker Compose itself has read it.

    compose.py READ SECRETS RENDERED

READ is the output of `docker-compose config --format json`, SECRETS the directory that secrets.sh has made. The settings of each
gateway are left in the directory RENDERED, with the files of SECRETS in place of the containers'.
"""

import json
import pathlib
import sys

findings = []


def finding(text):
    findings.append(text)
    print(f"FINDING: {text}", file=sys.stderr)


def judge_service(name, service, secrets):
    if not service.get("read_only") or service.get("cap_drop") != ["ALL"] or service.get("security_opt") != ["no-new-privileges:true"]:
        finding(f"{name}: it can write to its root, or may gain privileges")
    if "healthcheck" not in service:
        finding(f"{name}: no healthcheck")
    image, _, tag = service["image"].rpartition(":")
    if not image or tag == "latest":
        finding(f"{name}: the image {service['image']} is of no version")
    for variable in service.get("environment", {}):
        if variable.endswith(("PASSWORD", "SECRET")):
            finding(f"{name}: {variable} is a secret in the environment")
    for port in service.get("ports", []):
        if port.get("host_ip") != "127.0.0.1":
            finding(f"{name}: its port {port['target']} is open to other machines")
    for secret in service.get("secrets", []):
        if secret["source"] not in secrets:
            finding(f"{name}: secrets.sh does not make {secret['source']}")


def main():
    read, made, rendered = sys.argv[1], *map(pathlib.Path, sys.argv[2:])
    project = json.loads(pathlib.Path(read).read_text())
    secrets = {name: made / pathlib.Path(secret["file"]).name for name, secret in project["secrets"].items()}
    secrets = {name: file for name, file in secrets.items() if file.exists() and file.stat().st_size}
    gateways = []
    for name, service in project["services"].items():
        judge_service(name, service, secrets)
        variables = service.get("environment", {})
        if "EXPORTGATE_LISTEN" not in variables:
            continue
        gateways.append(name)
        mounted = {f"/run/secrets/{secret}": str(file) for secret, file in secrets.items()}
        text = "".join(f"{key}={mounted.get(value, value)}\0" for key, value in variables.items())
        (rendered / f"compose-{name}.env").write_text(text)
    most = {int(project["services"][name]["environment"]["EXPORTGATE_SHARED_GATEWAYS"]) for name in gateways}
    if len(gateways) < 2 or len(most) != 1 or most.pop() < len(gateways):
        finding("the gateways do not agree on EXPORTGATE_SHARED_GATEWAYS, or it is less than their number")
    volumes = [volume["source"] for name in gateways for volume in project["services"][name]["volumes"]]
    if len(set(volumes)) != len(gateways):
        finding("gateways share a journal")
    unused = secrets.keys() - {secret["source"] for service in project["services"].values() for secret in service.get("secrets", [])}
    if unused:
        finding(f"secrets that nobody uses: {', '.join(sorted(unused))}")
    if findings:
        sys.exit(f"{len(findings)} findings, named above")
    print(f"{len(project['services'])} services, {len(gateways)} of them gateways; {len(secrets)} secrets as files")


main()
