#!/usr/bin/env bash
# Clients in other languages, from the start of an export to its files, against the built program in front of a
# fake Snyk: Python's requests, Node, Java and curl, over HTTP/1.1, and over TLS and HTTP/2 where they speak it.
# Installs what is missing where it can, and names it where it cannot. Ends with 1 on any failure.
#
#   tests/clients/run.sh [PROGRAM]        (default: target/debug/exportgate)
set -euo pipefail
# shellcheck source=tests/clients/preamble.sh
. "$(dirname "$0")/preamble.sh"

readonly PINS=(requests==2.34.2)

need openssl openssl version
need default-jdk-headless java --describe-module jdk.compiler
venv "$target/clients" "${PINS[@]}"
node --version
java --version | head -n 1

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost \
    -keyout "$scratch/tls.key" -out "$scratch/tls.pem" -addext subjectAltName=DNS:localhost,IP:127.0.0.1 \
    2>"$scratch/openssl" || { cat "$scratch/openssl" >&2; fail 'openssl'; }

mkdir "$scratch/parts"
for part in 1 2; do printf "A,B\n1,a\n2,b\n3,c\n" >"$scratch/parts/$part.csv"; done
"$program" fake-snyk --listen 127.0.0.1:0 --polls 1 --parts "$scratch/parts" --ca-out "$scratch/fake.pem" >"$scratch/fake.log" 2>&1 &
fake_pid=$!
started+=("$fake_pid")
fake=$(listening "$scratch/fake.log" 'https://127\.0\.0\.1:[0-9]+')
cat >"$scratch/exportgate.toml" <<END
listen = ["127.0.0.1:0", "tls:127.0.0.1:0"]
tls.certificate = "$scratch/tls.pem"
tls.key = "$scratch/tls.key"
upstream.url = "$fake"
upstream.ca_file = "$scratch/fake.pem"
journal.path = "$scratch/journal.db"
admin.listen = "127.0.0.1:0"
END
EXPORTGATE_LOG_FORMAT=json SNYK_TOKEN=any-token-for-the-fake "$program" serve --config "$scratch/exportgate.toml" \
    >"$scratch/log" 2>&1 &
started+=($!)
http=http://$(listening "$scratch/log" '"127\.0\.0\.1:[0-9]+' | tr -d '"')
https=https://$(listening "$scratch/log" 'tls:127\.0\.0\.1:[0-9]+' | cut -d : -f 2-)

cat "$scratch/tls.pem" "$scratch/fake.pem" >"$scratch/ca.pem"
export CURL_CA_BUNDLE=$scratch/ca.pem REQUESTS_CA_BUNDLE=$scratch/ca.pem NODE_EXTRA_CA_CERTS=$scratch/ca.pem
export SNYK_TOKEN=not-snyks
failed=0
ran=0
# client ROOT COMMAND...: one export, from its start to its files, of an org of its own.
client() {
    local root=$1 result=0
    shift
    ran=$((ran + 1))
    SNYK_API=$root SNYK_ORG_ID=client-$ran timeout 90 "$@" >"$scratch/out" 2>"$scratch/err" || result=$?
    if [ "$result" = 0 ] && [ "$(cat "$scratch/out")" = '2 files, 6 rows' ]; then
        printf 'ok: %s at %s\n' "${*##*/}" "${root%%:*}"
    else
        cat "$scratch/out" "$scratch/err" >&2
        printf 'FINDING: %s at %s ended with %s\n' "${*##*/}" "${root%%:*}" "$result" >&2
        failed=$((failed + 1))
    fi
}

step 'Clients'
for root in "$http" "$https"; do
    client "$root" "$target/clients/bin/python" tests/clients/client.py
    client "$root" node tests/clients/client.mjs fetch
    client "$root" node tests/clients/client.mjs agent
    client "$root" java tests/clients/Client.java HTTP_1_1
    # Without TLS, it offers to upgrade to h2c, and is answered over HTTP/1.1.
    client "$root" java tests/clients/Client.java HTTP_2
    client "$root" tests/clients/client.sh
done

[ "$failed" = 0 ] || fail "$failed of $ran clients"
kill "$fake_pid"
wait "$fake_pid" || true
grep -q " start: $ran, .* file: $((2 * ran))," "$scratch/fake.log" || fail "the fake has counted others: $(tail -n 1 "$scratch/fake.log")"
printf '\nrun.sh: %s clients were served from the start to the files\n' "$ran"
