#!/usr/bin/env bash
# Passes all the tests, from a fresh machine with a Rust toolchain on. Installs what it needs where it
# can (as root on Debian), and names it where it cannot. Stops at the first step that fails.
set -euo pipefail
cd "$(dirname "$0")"

step() { printf '\n== %s\n' "$*"; }
fail() { printf '\ntest.sh: %s\n' "$*" >&2; exit 1; }

# need COMMAND PACKAGE: the command, or the Debian package that has it.
need() {
    command -v "$1" >/dev/null && return
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$2" && return
    fi
    fail "$1 is missing: install the package $2"
}

step 'What is needed'
command -v cargo >/dev/null || fail 'cargo is missing: install the Rust toolchain that rust-toolchain.toml names'
need cc build-essential
need curl curl
need sqlite3 sqlite3
cargo fmt --version >/dev/null || fail 'rustfmt is missing: rustup component add rustfmt'
cargo clippy --version >/dev/null || fail 'clippy is missing: rustup component add clippy'
if ! cargo deny --version >/dev/null 2>&1; then
    cargo install --quiet cargo-deny --version 0.20.2 --locked || fail 'cargo-deny is missing: cargo install cargo-deny --version 0.20.2 --locked'
fi
cargo --version
cargo deny --version

step 'Formatting'
cargo fmt --check

step 'Lints'
cargo clippy --locked --all-targets -- -D warnings

step 'Tests'
written=target/tmp
rm -rf "$written/artefacts" "$written/secrets"
cargo test --locked

step 'No secret in anything that the tests wrote: logs, errors, journals, output'
[ -d "$written/artefacts" ] && [ -d "$written/secrets" ] || fail 'the tests left nothing to search'
secrets=$(mktemp)
trap 'rm -f "$secrets"' EXIT
sort -u "$written"/secrets/*.txt >"$secrets"
[ -s "$secrets" ] || fail 'the tests named no secrets'
printf 'a canary: %s\n' "$(head -n 1 "$secrets")" >"$written/canary"
grep -raqF -f "$secrets" "$written/canary" || fail 'the search itself does not work'
rm -f "$written/canary"
if grep -raoF -f "$secrets" "$written/artefacts" | cut -c1-200 | head -n 5 | grep .; then
    fail 'a secret was written'
fi
printf '%s secrets looked for in %s files: none found\n' "$(wc -l <"$secrets")" "$(find "$written/artefacts" -type f | wc -l)"

step 'Documentation'
RUSTDOCFLAGS='-D warnings' cargo doc --locked --no-deps

step 'Supply chain: licences, bans, sources'
cargo deny --log-level error check licenses bans sources

step 'Supply chain: advisories'
advisories=$(mktemp)
if cargo deny --log-level error check advisories >"$advisories" 2>&1; then
    echo 'no advisories'
elif grep -qiE 'failed to (fetch|load|open|clone)|unable to (fetch|find)|network|resolve' "$advisories" && ! grep -q 'error\[vulnerability\]' "$advisories"; then
    echo '#### ADVISORIES: NOT CHECKED (the advisory database is out of reach) ####'
else
    cat "$advisories"
    fail 'an advisory concerns us'
fi
rm -f "$advisories"

printf '\nAll checks passed.\n'
