#!/usr/bin/env bash
# Measures exportgate beside nginx, HAProxy and Varnish, in turn, in several rounds. Installs what is missing where it
# can, and names it where it cannot. Wants a quiet machine with two cores: one for the server, one for the client.
#
#   benches/peers/run.sh [--quick] [SCENARIO...]     (default: all; five rounds. About an hour; --quick: a quarter)
#
# Results: target/peers/*.json, and of these docs/benchmarks.md and docs/benchmarks.svg (not with --quick).
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=tests/shell.sh
. tests/shell.sh
# shellcheck source=benches/programs.sh
. benches/programs.sh

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
out=$target/peers

policy=/usr/sbin/policy-rc.d
policy_is_ours=no
clean_up() {
    [ "$policy_is_ours" = no ] || rm -f "$policy"
}
trap clean_up EXIT

# The peers are started by this bench alone: no daemon of theirs begins with their installation.
if [ "$(id -u)" = 0 ] && [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    policy_is_ours=yes
fi

step 'What is needed'
command -v cargo >/dev/null ||
    fail 'cargo is missing: install the Rust toolchain that rust-toolchain.toml names'
[ "$(nproc)" -ge 2 ] || fail 'two cores are needed'
# Where daemons are for root, a user's PATH may not lead to them.
PATH=$PATH:/usr/sbin
need python3 python3 --version
need openssl openssl version
need util-linux taskset --version
need nginx nginx -v
need haproxy haproxy -v
need varnish varnishd -V
need wrk test -x /usr/bin/wrk
need nghttp2-client h2load --version
need python3-venv python3 -c 'import ensurepip, venv'
plotter "$out/venv"

step 'Build'
programs "$out/bin" floor upstream load

step 'Measure'
PYTHONPATH=benches python3 -B benches/peers/measure.py --programs "$out/bin" --out "$out" "$@"

# A quick run is there to see that all works; its figures are nothing to publish.
pages=docs
case " $* " in *' --quick '* | *' --peers '*) pages=$out ;; esac
step "The page: $pages/benchmarks.md"
PYTHONPATH=benches "$out/venv/bin/python" -B benches/peers/report.py "$out" "$pages"
