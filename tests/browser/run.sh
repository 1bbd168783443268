#!/usr/bin/env bash
# The status page in a real browser (Debian's Chromium): (a) the page against a mock with hostile values, and
# broken pages that must be caught; (b) the page as the program serves it, in front of a fake Snyk. Installs
# what is missing where it can. Screenshots are left in target/browser/screenshots. Ends with 1 on any failure.
#
#   tests/browser/run.sh [PROGRAM]        (default: target/debug/exportgate)
set -euo pipefail
named=${1:+$(realpath -m "$1")}
cd "$(dirname "$0")/../.."
# shellcheck source=tests/shell.sh
. tests/shell.sh

readonly PINS=(playwright==1.65.2 axe-playwright-python==0.1.8)

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
program=${named:-$target/debug/exportgate}
out=$target/browser


scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

step 'What is needed'
[ -x "$program" ] || fail "$program is missing: cargo build, or name the program"
need python3 python3 --version
need python3-venv python3 -c 'import ensurepip, venv'
need chromium /usr/bin/chromium --version
# With no font at all, nothing on the page would have a width.
need fonts-liberation test -d /usr/share/fonts/truetype/liberation
mkdir -p "$out"
venv "$out/venv" "${PINS[@]}"
/usr/bin/chromium --version 2>/dev/null

# A proxy is for what was installed above, not for this machine.
export NO_PROXY=127.0.0.1 no_proxy=127.0.0.1 PYTHONDONTWRITEBYTECODE=1 BROWSER_OUT=$out
rm -rf "$out/screenshots"
failed=()

# part NAME SECONDS FILE [ARGUMENT...]: one line a test; what else they say is shown where one failed.
part() {
    local name=$1 seconds=$2 file=$3 result=0
    shift 3
    step "$name"
    timeout --kill-after=10 "$seconds" "$out/venv/bin/python" "tests/browser/$file" "$@" 2>"$scratch/errors" || result=$?
    if [ "$result" != 0 ]; then
        cat "$scratch/errors" >&2
        failed+=("$name ended with $result (124 means: not in time)")
    fi
}
part '(a) the page, against a mock' 600 check_page.py
part "(b) the page, served by $program" 300 check_program.py "$program"

for one in "${failed[@]}"; do printf 'FINDING: %s\n' "$one" >&2; done
[ "${#failed[@]}" = 0 ] || fail "${#failed[@]} of 2 parts"
printf '\nrun.sh: all browser tests passed; %s screenshots in %s\n' \
    "$(find "$out/screenshots" -name '*.png' | wc -l)" "$out/screenshots"
