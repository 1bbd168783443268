#!/usr/bin/env bash
# Measures what grows with entries, clients, records and cores, and what is promised of an idle and of a busy program.
# Installs what is missing where it can, and names it where it cannot. Wants a quiet machine with two cores.
#
#   benches/growth/run.sh [--quick] [WHAT...]     (default: all. About 25 minutes, ten of them `pauses`; --quick: four)
#
# Results: target/growth/*.json, and of these docs/growth.md and docs/growth.svg (not with --quick). Why a curve bends
# stands in benches/growth/reasons.toml.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=tests/shell.sh
. tests/shell.sh
# shellcheck source=benches/programs.sh
. benches/programs.sh

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
out=$target/growth

step 'What is needed'
command -v cargo >/dev/null ||
    fail 'cargo is missing: install the Rust toolchain that rust-toolchain.toml names'
[ "$(nproc)" -ge 2 ] || fail 'two cores are needed'
need python3 python3 --version
need openssl openssl version
need util-linux taskset --version
need valgrind valgrind --version
need wrk test -x /usr/bin/wrk
need python3-venv python3 -c 'import ensurepip, venv; import tomllib'
plotter "$out/venv"

step 'Build'
programs "$out/bin" growth floor upstream load

step 'Measure'
PYTHONPATH=benches python3 -B benches/growth/measure.py --programs "$out/bin" --out "$out" "$@"

# A quick run is there to see that all works; its figures are nothing to publish.
pages=docs
case " $* " in *' --quick '*) pages=$out ;; esac
step "The page: $pages/growth.md"
PYTHONPATH=benches "$out/venv/bin/python" -B benches/growth/report.py "$out" "$pages"
