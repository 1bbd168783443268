#!/usr/bin/env bash
# Measures downloads in turn, in three rounds: 1 GiB through exportgate and through nginx's proxy_pass, as CPU time per MiB of
# the proxy; and 16 parts of 64 MiB by `exportgate fetch`, by aria2c and by a script with requests, as wall time and memory.
# Wants a quiet machine with two cores. Installs what is missing where it can, and names it where it cannot. Ten minutes.
#
#   benches/files/run.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=tests/shell.sh
. tests/shell.sh
# shellcheck source=benches/programs.sh
. benches/programs.sh

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
PATH=$PATH:/usr/sbin

step 'What is needed'
command -v cargo >/dev/null ||
    fail 'cargo is missing: install the Rust toolchain that rust-toolchain.toml names'
need python3 python3 --version
need curl curl --version
need aria2 aria2c --version
need nginx-light nginx -v
need util-linux taskset --version
venv "$target/clients" requests==2.34.2

step 'Build'
programs "$target/files/bin"

step 'Measure'
PYTHONPATH=benches "$target/clients/bin/python" -B benches/files/measure.py "$target/files"
