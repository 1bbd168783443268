#!/usr/bin/env bash
# Files through the gateway with clients and stores that others wrote: aria2c, wget, curl and pandas take the table of an
# export; its parts lie in s3rver, an S3 server, behind links that the vendor's SDK signed. Then `exportgate fetch` does the
# same by itself. Installs what is missing where it can, and names it where it cannot. Ends with 1 on any failure.
#
#   tests/clients/files.sh [PROGRAM]        (default: target/debug/exportgate)
set -euo pipefail
# shellcheck source=tests/clients/preamble.sh
. "$(dirname "$0")/preamble.sh"

readonly PINS=(pandas==2.2.3)
readonly PACKAGES=(s3rver@3.7.1 @aws-sdk/client-s3@3.726.1 @aws-sdk/s3-request-presigner@3.726.1)

need aria2 aria2c --version
need wget wget --version
need npm npm --version
venv "$target/pandas" "${PINS[@]}"
store=$target/store
if [ "$(cat "$store/pins" 2>/dev/null || true)" != "${PACKAGES[*]}" ]; then
    printf 'installing into %s: npm install %s\n' "$store" "${PACKAGES[*]}"
    rm -rf "$store"
    mkdir -p "$store"
    npm install --silent --no-fund --no-audit --prefix "$store" "${PACKAGES[@]}" >/dev/null 2>"$scratch/npm" ||
        { cat "$scratch/npm" >&2; fail "npm install ${PACKAGES[*]}"; }
    printf '%s' "${PACKAGES[*]}" >"$store/pins"
fi

step 'The store, the fake and the gateway'
rm -rf "$store/buckets"
node tests/clients/store.mjs "$store" >"$scratch/links" 2>"$scratch/store.log" &
started+=($!)
expected=$(listening "$scratch/links" 'table [0-9a-f]{64}' | cut -d ' ' -f 2)
mapfile -t links < <(sed -n 's/^link //p' "$scratch/links")
origin=$(printf '%s' "${links[0]}" | grep -oE '^http://[^/]+')
lies=(--lie total=120000)
for n in 1 2 3; do lies+=(--lie "link@$n=${links[n - 1]}" --lie "rows@$n=40000" --lie "size@$n=none"); done
"$program" fake-snyk --listen 127.0.0.1:0 --polls 1 --part-count 3 "${lies[@]}" --ca-out "$scratch/fake.pem" \
    >"$scratch/fake.log" 2>&1 &
started+=($!)
fake=$(listening "$scratch/fake.log" 'https://127\.0\.0\.1:[0-9]+')
cat >"$scratch/exportgate.toml" <<END
listen = ["127.0.0.1:0"]
upstream.url = "$fake"
upstream.ca_file = "$scratch/fake.pem"
files.origins = ["$origin"]
journal.path = "$scratch/journal.db"
admin.listen = "127.0.0.1:0"
END
readonly org=825e79b7-0073-44c3-a5ea-e0aa8a3dbf38
export SNYK_TOKEN=any-token-for-the-fake
EXPORTGATE_LOG_FORMAT=json "$program" serve --config "$scratch/exportgate.toml" >"$scratch/log" 2>&1 &
started+=($!)
http=http://$(listening "$scratch/log" '"127\.0\.0\.1:[0-9]+' | tr -d '"')
exports=$http/rest/orgs/$org
body='{"data":{"type":"resource","attributes":{"dataset":"issues","formats":["csv"],"filters":{"introduced":{"from":"2026-01-01T00:00:00Z"}}}}}'
export=$(curl -sf -H 'content-type: application/json' --data "$body" "$exports/export?version=2024-10-15" |
    python3 -c 'import json, sys; print(json.load(sys.stdin)["data"]["id"])')
for _ in 1 2 3; do curl -sf -o /dev/null "$exports/jobs/export/$export?version=2024-10-15"; done
table="$exports/export/$export/table.csv?version=2024-10-15"

step 'Clients'
failed=0
ran=0
# client NAME COMMAND...: takes the table into $scratch/out.
client() {
    local name=$1 sum
    shift
    ran=$((ran + 1))
    rm -f "$scratch/out"
    [ -z "${half:-}" ] || head -c 1000000 "$scratch/whole" >"$scratch/out"
    timeout 120 "$@" >"$scratch/said" 2>&1 || true
    sum=$([ ! -f "$scratch/out" ] || sha256sum <"$scratch/out" | cut -d ' ' -f 1)
    if [ "$sum" = "$expected" ]; then
        printf 'ok: %s\n' "$name"
    else
        tail -n 20 "$scratch/said" >&2
        printf 'FINDING: %s took something else\n' "$name" >&2
        failed=$((failed + 1))
    fi
}
client 'curl' curl -sf -o "$scratch/out" "$table"
cp "$scratch/out" "$scratch/whole"
client 'aria2c, 4 connections' aria2c -q -x4 -s4 -k1M -d "$scratch" -o out "$table"
client 'wget' wget -q -O "$scratch/out" "$table"
half=1 client 'curl -C -' curl -sf -C - -o "$scratch/out" "$table"
half=1 client 'wget -c' wget -q -c -O "$scratch/out" "$table"
client 'pandas' "$target/pandas/bin/python" -c '
import sys, pandas
table = pandas.read_csv(sys.argv[1], dtype=str)
assert table.shape == (120_000, 2), table.shape
import csv
with open(sys.argv[2], "w", newline="") as out:
    out.write("A,B\n")
    for a, b in table.itertuples(index=False):
        out.write(a + "," + "\"" + b.replace("\"", "\"\"") + "\"\n")
' "$table" "$scratch/out"
fetch=("$program" fetch issues --org "$org" --since 30d --progress plain -o "$scratch/out")
client 'exportgate fetch through the gateway' "${fetch[@]}" --via "$http"
client 'exportgate fetch by itself' "${fetch[@]}" --clobber --config "$scratch/exportgate.toml"

[ "$failed" = 0 ] || fail "$failed of $ran clients"
# A signature, a link's name or the credential in anything that was written would be a leak.
if grep -rlE 'X-Amz-Signature|any-token-for-the-fake' "$scratch" --include=log --include=said --include='*manifest*' --include='journal.db*'; then
    fail 'a link or the credential was written down'
fi
printf '\nfiles.sh: %s clients took the same table, whole\n' "$ran"
