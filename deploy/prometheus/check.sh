#!/usr/bin/env bash
# Judges the rules and the dashboard with Prometheus itself: promtool on the rules, on their tests and on METRICS_FILE
# (what GET /metrics says, as Prometheus text); then a Prometheus on this machine alone scrapes that file, loads the
# rules, and is asked each query. Ends with 1 on any finding.
#
#   deploy/prometheus/check.sh METRICS_FILE
set -euo pipefail
metrics=$(realpath -m "${1:?which file? deploy/prometheus/check.sh METRICS_FILE}")
cd "$(dirname "$0")"

fail() {
    printf '\ncheck.sh: FAILED: %s\n' "$*" >&2
    exit 1
}

for tool in promtool prometheus python3; do
    command -v "$tool" >/dev/null || fail "$tool is missing (Debian's packages prometheus and python3 have it)"
done
[ -s "$metrics" ] || fail "$metrics is missing or empty"

promtool check rules exportgate-rules.yaml
promtool test rules exportgate-rules.test.yaml
# It is quiet when all is well, and says with 3 what it does not like.
promtool check metrics <"$metrics" || fail 'promtool check metrics'
python3 check.py "$metrics" exportgate-rules.yaml exportgate-rules.test.yaml \
    ../grafana/exportgate-dashboard.json ../../docs/operations.md
