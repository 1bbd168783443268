# The beginning that run.sh and files.sh have in common; read by them with `.`, from their own folder.
# shellcheck shell=bash
#
# Sets target, program, scratch and started, and goes to the root of the source. All that `started` lists ends with the
# script.
named=${1:+$(realpath -m "$1")}
cd "$(dirname "$0")/../.." || exit
# shellcheck source=tests/shell.sh
. tests/shell.sh

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
program=${named:-$target/debug/exportgate}
own_scratch

# A proxy is for what is installed, not for this machine.
export NO_PROXY=127.0.0.1 no_proxy=127.0.0.1

step 'What is needed'
[ -x "$program" ] || fail "$program is missing: cargo build, or name the program"
need curl curl --version
need python3-venv python3 -c 'import ensurepip, venv'
need nodejs node --eval 'fetch'
