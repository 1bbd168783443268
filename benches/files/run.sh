#!/usr/bin/env bash
# Measures downloads in turn, in five rounds: 1 GiB through exportgate and through nginx's proxy_pass, as CPU time per MiB of
# the proxy; and 16 parts of 64 MiB by `exportgate fetch`, by aria2c and by a script with requests, as wall time and memory.
# Wants a quiet machine with two cores and 3 GiB of disk. Installs what is missing where it can, and names it where it
# cannot. Some ten minutes.
#
#   benches/files/run.sh [--quick]     (--quick: small files, to see that all works)
#
# Result: the section "Files" of docs/benchmarks.md (with --quick: of target/files/benchmarks.md).
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
need time test -x /usr/bin/time
need python3-venv python3 -c 'import ensurepip, venv'
venv "$target/clients" requests==2.34.2

step 'Build'
programs "$target/files/bin"

step 'Measure'
# A quick run is there to see that all works; its figures are nothing to publish.
page=docs/benchmarks.md
case " $* " in *' --quick '*) page=$target/files/benchmarks.md ;; esac
PYTHONPATH=benches "$target/clients/bin/python" -B benches/files/measure.py "$target/files" "$page" "$@"
