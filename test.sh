#!/usr/bin/env bash
# Passes all the tests, from a fresh Debian with a Rust toolchain on. Installs what is missing where it
# can (with apt-get as root), and names it where it cannot. Stops at the first step that fails.
set -euo pipefail
cd "$(dirname "$0")"
# shellcheck source=tests/shell.sh
. tests/shell.sh

readonly CARGO_DENY=0.20.2

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

step 'What is needed'
command -v cargo >/dev/null ||
    fail 'cargo is missing: install the Rust toolchain that rust-toolchain.toml names'
need build-essential cc --version
need ca-certificates test -s /etc/ssl/certs/ca-certificates.crt
need curl curl --version
need sqlite3 sqlite3 --version
need git git --version
need redis-server redis-server --version
need redis-tools redis-cli --version
need postgresql-15 /usr/lib/postgresql/15/bin/postgres --version
need procps pgrep --version
cargo --version
cargo fmt --version || fail 'rustfmt is missing: rustup component add rustfmt'
cargo clippy --version || fail 'clippy is missing: rustup component add clippy'
if ! cargo deny --version >/dev/null 2>&1; then
    install=(cargo install cargo-deny --version "$CARGO_DENY" --locked)
    printf 'installing cargo-deny: %s\n' "${install[*]}"
    "${install[@]}" --quiet || fail "cargo-deny is missing and was not installed: ${install[*]}"
fi
cargo deny --version

step 'Format'
cargo fmt --check || fail 'run cargo fmt'

step 'Lints (tests and benches too)'
cargo clippy --all-targets --locked -- -D warnings

step 'Build, without and with the shared engine and the journal in one place'
cargo check --locked --no-default-features
cargo check --locked --no-default-features --features shared
cargo check --locked --no-default-features --features postgres
cargo build --locked

step 'Tests'
# Cargo gives integration tests this directory (CARGO_TARGET_TMPDIR). They leave there what was written
# while they ran, and list what must be in none of it.
written="${CARGO_TARGET_DIR:-target}/tmp"
artefacts="$written/artefacts"
secrets="$written/secrets"
rm -rf "$artefacts" "$secrets"
cargo test --locked

step 'No secret in what the tests wrote (logs, journals, output)'
[ -d "$artefacts" ] || fail "the tests left nothing to search in $artefacts"
[ -d "$secrets" ] || fail "the tests listed no secrets in $secrets"
find "$secrets" -type f -name '*.txt' -exec cat {} + | grep . | sort -u >"$scratch/secrets" ||
    fail 'the lists of secrets are empty'
# A search that finds nothing where there is something would pass for ever.
printf 'binary \0 %s\n' "$(tail -n 1 "$scratch/secrets")" >"$scratch/canary"
grep -qaF -f "$scratch/secrets" "$scratch/canary" || fail 'the search for secrets does not work'
files=$(find "$artefacts" -type f -size +0 | wc -l)
[ "$files" -gt 0 ] || fail "all files in $artefacts are empty"
found=0
grep -ralF -f "$scratch/secrets" "$artefacts" >"$scratch/leaks" || found=$?
case $found in
    0)
        cat "$scratch/leaks" >&2
        fail 'a secret stands in the files above'
        ;;
    1) printf '%s secrets sought in %s files: none found\n' "$(wc -l <"$scratch/secrets")" "$files" ;;
    *) fail "the search for secrets ended with $found" ;;
esac

step "Other people's tools: TLS, the answers' fields, our own OpenAPI document, secrets in the repository"
tests/tools.sh "${CARGO_TARGET_DIR:-target}/debug/exportgate"

step "Other people's clients: from the start of an export to its files"
tests/clients/run.sh "${CARGO_TARGET_DIR:-target}/debug/exportgate"
tests/clients/files.sh "${CARGO_TARGET_DIR:-target}/debug/exportgate"

step 'The status page, in a browser'
tests/browser/run.sh "${CARGO_TARGET_DIR:-target}/debug/exportgate"

step 'What is in deploy, and the metrics'
deploy/lint.sh "${CARGO_TARGET_DIR:-target}/debug/exportgate"
deploy/prometheus/check.sh "$written/metrics.txt"

step 'Documentation'
RUSTDOCFLAGS='-D warnings' cargo doc --no-deps --locked

step 'Supply chain: licences, bans, sources'
cargo deny --log-level warn check licenses bans sources

step 'Supply chain: advisories'
# Fetching and checking are two commands, so that an unreachable database is never taken for a finding,
# nor a finding for an unreachable database.
if cargo deny fetch db >"$scratch/fetch" 2>&1; then
    cargo deny --offline check advisories
    advisories='advisories checked'
else
    tail -n 1 "$scratch/fetch"
    printf '\n######## ADVISORIES: NOT CHECKED (the advisory database is out of reach) ########\n'
    advisories='ADVISORIES NOT CHECKED'
fi

printf '\ntest.sh: all steps passed; %s.\n' "$advisories"
