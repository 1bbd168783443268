#!/usr/bin/env bash
# Measures gateways that share an engine: a hit with and without it, hits from the second tier, the engine's processor time for each
# request to Snyk, purges, one to four gateways on two cores, a restart of the engine, and its memory. Wants a quiet machine with
# two cores. Installs what is missing where it can, and names it where it cannot. Some ten minutes, once it is built.
#
#   benches/fleet/run.sh [--quick] [NAME...]     (--quick: short, to see that all works; NAME: some of them)
#
# Result: the section "Many machines" of docs/benchmarks.md (with --quick or names: of target/fleet/benchmarks.md).
# PROGRAMS names a directory with the programs exportgate, upstream and load, where they are built already.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=tests/shell.sh
. tests/shell.sh
# shellcheck source=benches/programs.sh
. benches/programs.sh

out=$(realpath -m "${CARGO_TARGET_DIR:-target}")/fleet
mkdir -p "$out"

step 'What is needed'
command -v cargo >/dev/null ||
    fail 'cargo is missing: install the Rust toolchain that rust-toolchain.toml names'
need python3 python3 --version
need openssl openssl version
need util-linux taskset --version
need valgrind valgrind --version
need nghttp2-client h2load --version
need wrk test -x /usr/bin/wrk
need redis-server redis-server --version
need redis-tools redis-cli --version

step 'Build'
[ -n "${PROGRAMS:-}" ] || programs "$out/bin" upstream load

step 'Measure'
page=docs/benchmarks.md
[ "$#" = 0 ] || page=$out/benchmarks.md
PYTHONPATH=benches python3 -B benches/fleet/measure.py "${PROGRAMS:-$out/bin}" "$out" "$page" "$@"
