#!/usr/bin/env bash
# Counts the instructions that parts of the path take, and whole requests through the program, and compares them with
# benches/instructions/counts.json. Counts hardly depend on what else the machine does. Ends with 1 where something is
# more than 3 % dearer than the file says. Some three minutes, once it is built.
#
#   benches/instructions/run.sh [--save] [NAME...]     (default: all; --save writes the file)
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=tests/shell.sh
. tests/shell.sh
# shellcheck source=benches/programs.sh
. benches/programs.sh

out=$(realpath -m "${CARGO_TARGET_DIR:-target}")/instructions

step 'What is needed'
command -v cargo >/dev/null ||
    fail 'cargo is missing: install the Rust toolchain that rust-toolchain.toml names'
need python3 python3 --version
need openssl openssl version
need util-linux taskset --version
need valgrind valgrind --version
need nghttp2-client h2load --version

step 'Build'
programs "$out/bin" instructions upstream load

step 'Count'
PYTHONPATH=benches python3 -B benches/instructions/measure.py --programs "$out/bin" --out "$out" "$@"
