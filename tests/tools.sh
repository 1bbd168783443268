#!/usr/bin/env bash
# Judges the built program with other people's tools: sslyze (Mozilla's intermediate profile), schemathesis
# (docs/openapi.json), httplint (the answers' fields), HAProxy (HTTP/2 by an intermediary), gitleaks (secrets in the
# repository, where it can be had). Installs what is missing where it can, and names it where it cannot. Ends with 1 on any finding.
#
#   tests/tools.sh [PROGRAM]        (default: target/debug/exportgate)
set -euo pipefail
named=${1:+$(realpath -m "$1")}
cd "$(dirname "$0")/.."
# shellcheck source=tests/shell.sh
. tests/shell.sh

readonly PINS=(sslyze==6.3.1 schemathesis==4.32.5 httplint==2026.10.4)
readonly VERSION=2024-10-15

here=$PWD
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
program=${named:-$target/debug/exportgate}
tools=$target/tools


own_scratch
# Counted in a file, for parts of a pipe have variables of their own.
: >"$scratch/findings"
finding() { printf 'FINDING: %s\n' "$*" | tee -a "$scratch/findings" >&2; }

# gateway NAME: starts one with $scratch/NAME.toml; its ports are then in NAME.port, NAME.tls and NAME.admin.
gateway() {
    local log=$scratch/$1.log
    EXPORTGATE_LOG_FORMAT=json SNYK_TOKEN=any-token-for-the-fake \
        "$program" serve --config "$scratch/$1.toml" >"$log" 2>&1 &
    started+=($!)
    listening "$log" '"127\.0\.0\.1:[0-9]+' | grep -oE '[0-9]+$' >"$scratch/$1.port"
    listening "$log" 'tls:127\.0\.0\.1:[0-9]+' | grep -oE '[0-9]+$' >"$scratch/$1.tls"
    listening "$log" 'admin listener.*"127\.0\.0\.1:[0-9]+' | grep -oE '[0-9]+$' >"$scratch/$1.admin"
}

step 'What is needed'
[ -x "$program" ] || fail "$program is missing: cargo build, or name the program"
need curl curl --version
need openssl openssl version
need python3 python3 --version
need python3-venv python3 -c 'import ensurepip, venv'
need haproxy haproxy -v
venv "$tools" "${PINS[@]}"

step 'The program, in front of a fake Snyk'
# A proxy is for what was installed above, not for this machine.
export NO_PROXY=127.0.0.1 no_proxy=127.0.0.1
mkdir -m 700 "$scratch/keys"
# certificate NAME KIND...: a certificate for this machine's own names, signed by an authority of its own.
certificate() {
    local name=$scratch/keys/$1
    shift
    openssl req -x509 -newkey "$@" -nodes -days 2 -keyout "$name.ca.key" -out "$name.ca.pem" \
        -subj '/CN=exportgate test authority' -addext keyUsage=critical,keyCertSign,cRLSign
    openssl req -new -newkey "$@" -nodes -keyout "$name.key" -out "$name.csr" -subj '/CN=localhost'
    printf '%s\n' 'subjectAltName=DNS:localhost,IP:127.0.0.1' 'basicConstraints=CA:FALSE' \
        'extendedKeyUsage=serverAuth' >"$name.ext"
    openssl x509 -req -in "$name.csr" -CA "$name.ca.pem" -CAkey "$name.ca.key" -CAcreateserial -days 2 \
        -extfile "$name.ext" -out "$name.pem"
} 2>"$scratch/openssl"
certificate ec ec -pkeyopt ec_paramgen_curve:P-256 || { cat "$scratch/openssl" >&2; fail 'openssl'; }
certificate rsa rsa:2048 || { cat "$scratch/openssl" >&2; fail 'openssl'; }

# Schemathesis makes up starts that Snyk would refuse.
"$program" fake-snyk --plain --listen 127.0.0.1:0 --polls 1 --accept-any-start >"$scratch/fake.log" 2>&1 &
started+=($!)
fake=$(listening "$scratch/fake.log" 'http://127\.0\.0\.1:[0-9]+')

# new_key NAME: a client's key, and its line in the file of clients.
new_key() {
    "$program" key new --client "$1" >"$scratch/keys/$1" 2>&1
    grep -m 1 -oE 'egk_[0-9a-f]+' "$scratch/keys/$1"
}
key=$(new_key ci)
slow_key=$(new_key slow)
for client in ci slow; do
    printf '[clients.%s]\n' "$client"
    grep '^keys' "$scratch/keys/$client"
    printf 'orgs = "*"\ngroups = "*"\noperations = ["read", "start"]\n'
done >"$scratch/clients.toml"
printf 'requests_per_minute = 1\n' >>"$scratch/clients.toml"
printf 'not-a-secret' >"$scratch/keys/client_secret"
printf 'the-token-of-the-admin-listener' >"$scratch/keys/admin_token"
chmod 600 "$scratch/clients.toml" "$scratch"/keys/*

# configuration NAME CERTIFICATE UPSTREAM: what all have in common. Generated waits would take the whole time.
configuration() {
    cat >"$scratch/$1.toml" <<END
listen = ["127.0.0.1:0", "tls:127.0.0.1:0"]
tls.certificate = "$scratch/keys/$2.pem"
tls.key = "$scratch/keys/$2.key"
upstream.url = "$3"
journal.path = "$scratch/$1.db"
listener.body_timeout = "2s"
wait.max = "0s"
admin.listen = "127.0.0.1:0"
admin.token_file = "$scratch/keys/admin_token"
END
}
# Clients have keys. Failures are counted in another test; here, each gets its 401.
configuration team ec "$fake"
printf 'access.clients_file = "%s"\naccess.max_failures = 100000\n' "$scratch/clients.toml" \
    >>"$scratch/team.toml"
# Nobody is there upstream (port 1 is nobody's).
configuration alone rsa http://127.0.0.1:1
# And nobody is there to give a token.
configuration tokenless ec "$fake"
printf 'credential.%s\n' 'client_id = "tools"' "client_secret_file = \"$scratch/keys/client_secret\"" \
    'token_url = "http://127.0.0.1:1/oauth2/token"' >>"$scratch/tokenless.toml"
# And one that another proxy speaks HTTP/2 to.
configuration proxied ec "$fake"
printf 'listener.h2c = true\n' >>"$scratch/proxied.toml"
for name in team alone tokenless proxied; do gateway "$name"; done
printf '%s: ' "$program"
"$program" --version

# Of an elliptic-curve and an RSA certificate. What the profile asks of a certificate (kind, curve, size,
# signature, lifetime, a path to its authority) ours have, for their authority is given to sslyze; that no
# public trust store knows it is printed by sslyze, and no part of the profile. So nothing is left out.
step "sslyze: TLS, by Mozilla's intermediate profile"
cat >"$scratch/judge_tls.py" <<'END'
import json, sys

scan = json.load(open(sys.argv[1]))["server_scan_results"][0]["scan_result"]
suites = {
    name: [suite["cipher_suite"]["name"] for suite in scan[field]["result"]["accepted_cipher_suites"]]
    for name, field in (
        ("TLS 1.0", "tls_1_0_cipher_suites"),
        ("TLS 1.1", "tls_1_1_cipher_suites"),
        ("TLS 1.2", "tls_1_2_cipher_suites"),
        ("TLS 1.3", "tls_1_3_cipher_suites"),
    )
}
curves = [curve["name"] for curve in scan["elliptic_curves"]["result"]["supported_curves"]]
wrong = [f"{name} is accepted" for name in ("TLS 1.0", "TLS 1.1") if suites[name]]
# A scan that reached nobody would find nothing either.
wrong += [f"{name} is not accepted" for name in ("TLS 1.2", "TLS 1.3") if not suites[name]]
# Not in the profile: a request sent as early data can be replayed (RFC 8446 appendix E.5).
if scan["tls_1_3_early_data"]["result"]["supports_early_data"]:
    wrong.append("early data is accepted")
if scan["session_renegotiation"]["result"]["is_vulnerable_to_client_renegotiation_dos"]:
    wrong.append("clients may renegotiate")
print("; ".join(wrong))
print(", ".join(f"{name}: {len(found)} suites" for name, found in suites.items()), "curves " + " ".join(sorted(curves)), sep="; ")
END
for name in team alone; do
    authority=$scratch/keys/$([ "$name" = team ] && echo ec || echo rsa).ca.pem
    port=$(cat "$scratch/$name.tls")
    result=0
    timeout 60 "$tools/bin/sslyze" --mozilla_config=intermediate --early_data --certinfo_ca_file "$authority" \
        --json_out "$scratch/sslyze.json" "127.0.0.1:$port" >"$scratch/sslyze.txt" 2>&1 || result=$?
    if [ "$result" != 0 ] || ! grep -q 'OK - Compliant' "$scratch/sslyze.txt"; then
        sed -n '/COMPLIANCE/,$p' "$scratch/sslyze.txt" >&2
        finding "sslyze ended with $result for $(basename "$authority" .ca.pem)"
        continue
    fi
    "$tools/bin/python" "$scratch/judge_tls.py" "$scratch/sslyze.json" >"$scratch/judged" ||
        fail 'the scan of sslyze cannot be read'
    wrong=$(head -n 1 "$scratch/judged")
    [ -z "$wrong" ] || finding "sslyze, $name: $wrong"
    printf 'sslyze: intermediate profile, %s certificate: compliant; %s\n' \
        "$(basename "$authority" .ca.pem)" "$(tail -n 1 "$scratch/judged")"
done

# Half of the requests follow the document and half break it. 504 is the right answer to only-if-cached.
# Whether Snyk refuses a bad body or query is Snyk's matter, so negative_data_rejection is not asked.
cat >"$scratch/schemathesis.toml" <<'END'
[checks]
not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", "504"]
END
# judge DOCUMENT URL AUTHORIZATION STATUSES ARGUMENTS...: each of the statuses must have been met.
judge() {
    local document=$1 url=$2 authorization=$3 wanted=$4 result=0 checks cases status
    shift 4
    checks=not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance
    checks+=,response_schema_conformance,unsupported_method,allow_header_conformance,ignored_auth
    # In a directory of its own: it keeps a database where it runs.
    (
        cd "$scratch"
        timeout 90 "$tools/bin/schemathesis" --config-file schemathesis.toml run "$here/docs/$document" \
            --url "$url" --header "Authorization: $authorization" --checks "$checks" --max-examples 30 --seed 7 \
            --request-timeout 10 --continue-on-failure --report ndjson --report-ndjson-path "$document.ndjson" "$@"
    ) >"$scratch/schemathesis.txt" 2>&1 || result=$?
    cases=$(grep -oE '[0-9]+ generated.*' "$scratch/schemathesis.txt" | tail -n 1)
    grep -oE '"status_code": ?[0-9]+' "$scratch/$document.ndjson" | grep -oE '[0-9]+$' | sort | uniq -c \
        >"$scratch/statuses" || true
    if [ "$result" != 0 ]; then
        sed "s/${authorization#* }/KEY/g" "$scratch/schemathesis.txt" >&2
        finding "schemathesis, $document: ended with $result (124: it did not end in time)"
    fi
    # A run that only ever met one refusal would pass as well.
    for status in $wanted; do
        grep -q " $status\$" "$scratch/statuses" || finding "schemathesis, $document: never met $status: it tests too little"
    done
    printf 'schemathesis, %s: %s; statuses%s\n' "$document" "$cases" "$(awk '{printf " %s:%s", $2, $1}' "$scratch/statuses")"
}

step 'schemathesis: what is served, by docs/openapi.json and docs/openapi-admin.json'
judge openapi.json "http://127.0.0.1:$(cat "$scratch/team.port")" "token $key" '200 202 400 401 404 405'
# What comes over and over has no end to judge.
judge openapi-admin.json "http://127.0.0.1:$(cat "$scratch/team.admin")" "Bearer $(cat "$scratch/keys/admin_token")" \
    '200 400 401 405' --exclude-path /api/events

team=http://127.0.0.1:$(cat "$scratch/team.port")
step 'httplint: the fields of our answers'
mkdir "$scratch/answers"
# NAME: NOTE, for each note that is accepted; of each answer where NAME is *. Notes at INFO and GOOD are not judged.
cat >"$scratch/accepted" <<'END'
# Deprecated, and what Node's and Apache's clients go by.
*: [WARN] The Keep-Alive header is deprecated.
# What the status itself means, not how it is said.
bad_path: [WARN] The server didn't understand the request.
bad_query: [WARN] The server didn't understand the request.
bad_framing: [WARN] The server didn't understand the request.
no_http: [WARN] The server didn't understand the request.
tls_needed: [WARN] The server didn't understand the request.
target_too_long: [BAD] The server won't accept a URI this long .
# Snyk's answer, with Snyk's fields: nothing is kept of it, and so nothing said about keeping it.
pending: [WARN] This response allows caches to assign their own freshness lifetimes to it.
first_of_minute: [WARN] This response allows caches to assign their own freshness lifetimes to it.
snyks_404: [WARN] This response allows caches to assign their own freshness lifetimes to it.
END
# ask NAME STATUS ARGUMENTS...: an answer as it stands on the wire.
ask() {
    local name=$1 status=$2
    shift 2
    curl --silent --include --path-as-is --max-time 20 "$@" >"$scratch/answers/$name" || true
    expect "$name" "$status"
}
# send NAME STATUS PORT: the same, of bytes.
send() {
    python3 -c '
import socket, sys

with socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=10) as stream:
    try:
        stream.sendall(sys.stdin.buffer.read())
        while piece := stream.recv(65536):
            sys.stdout.buffer.write(piece)
    except OSError:
        pass
' "$3" >"$scratch/answers/$1"
    expect "$1" "$2"
}
# Judged as soon as it is there, because its times are judged too.
expect() {
    local answer=$scratch/answers/$1 line note
    line=$(grep -aE -m 1 '^HTTP/1\.1 ' "$answer" || true)
    [[ $line == "HTTP/1.1 $2 "* ]] || finding "httplint: $1 should be $2, and is: ${line:-nothing}"
    printf '%s\n' "$2" >>"$scratch/linted"
    lint "$answer" >"$scratch/notes" || finding "httplint cannot read $1: $(tail -n 1 "$scratch/notes")"
    grep -E '^ *\* \[(BAD|WARN)\]' "$scratch/notes" | sed -e 's/^ *\* //' >"$scratch/judged" || true
    while IFS= read -r note; do
        grep -qxF -e "$1: $note" -e "*: $note" "$scratch/accepted" || finding "httplint: $1: $note"
    done <"$scratch/judged"
}
lint() { "$tools/bin/httplint" --now <"$1" 2>&1; }
# A linter that says nothing whatever it is given would pass for ever.
printf 'HTTP/1.1 200 OK\r\nDate: yesterday\r\nAge: -1\r\nContent-Length: 0\r\n\r\n' >"$scratch/canary"
lint "$scratch/canary" >"$scratch/notes" || true
grep -q '^\* \[BAD\]' "$scratch/notes" || fail 'httplint finds nothing wrong where there is something'

json=(--header 'Content-Type: application/vnd.api+json' --header 'Expect:')
me=(--header "Authorization: token $key")
alone=http://127.0.0.1:$(cat "$scratch/alone.port")
tokenless=http://127.0.0.1:$(cat "$scratch/tokenless.port")
body='{"data":{"type":"resource","attributes":{"filters":{"updated":{"from":"2026-01-01T00:00:00Z"}}}}}'
ask start 202 "${me[@]}" "${json[@]}" --data "$body" "$team/orgs/tools/export?version=$VERSION"
export_id=$(grep -aoE '"id":"[0-9a-f-]+"' "$scratch/answers/start" | cut -d '"' -f 4)
export_url="$team/orgs/tools/export/$export_id?version=$VERSION"
ask pending 200 "${me[@]}" "$export_url"
ask miss 200 "${me[@]}" "$export_url"
ask hit 200 "${me[@]}" "$export_url"
grep -qi '^cache-status: .*exportgate; hit' "$scratch/answers/hit" || finding 'httplint: the hit is none'
etag=$(grep -ioE '^etag: "[^"]+"' "$scratch/answers/hit" | cut -d ' ' -f 2)
ask not_modified 304 "${me[@]}" --header "If-None-Match: $etag" "$export_url"
ask snyks_404 404 "${me[@]}" "$team/orgs/tools/export/none?version=$VERSION"
ask bad_path 400 "${me[@]}" "$team/orgs/../export"
ask bad_query 400 "${me[@]}" "$team/orgs/tools/export/e?x=%00"
ask unauthorized 401 "$export_url"
ask web_page 403 "${me[@]}" --header 'Origin: http://web.example' "$export_url"
ask unknown_route 404 "${me[@]}" "$team/orgs"
ask method_not_allowed 405 "${me[@]}" --request DELETE "$export_url"
head -c 1100000 /dev/zero | tr '\0' ' ' >"$scratch/large"
ask body_too_large 413 "${me[@]}" "${json[@]}" --data-binary "@$scratch/large" "$team/orgs/tools/export"
ask target_too_long 414 "${me[@]}" "$team/orgs/tools/export/e?x=$(head -c 9000 "$scratch/large" | tr ' ' x)"
slow=(--header "Session-Token: $slow_key")
# Asked of Snyk anew: httplint takes the Date of an old hit for a clock that is behind.
ask first_of_minute 200 "${slow[@]}" --header 'Cache-Control: no-cache' "$export_url"
ask client_rate 429 "${slow[@]}" "$export_url"
ask not_cached 504 "${me[@]}" --header 'Cache-Control: only-if-cached' "$team/orgs/tools/export/other"
ask connection_refused 502 "$alone/orgs/tools/export/e"
ask no_token 503 "$tokenless/orgs/tools/export/e"
printf 'POST /orgs/tools/export HTTP/1.1\r\nHost: localhost\r\nAuthorization: token %s\r\nContent-Length: 9\r\n\r\n{' \
    "$key" | send body_timeout 408 "$(cat "$scratch/team.port")"
printf 'GET /orgs HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n' |
    send bad_framing 400 "$(cat "$scratch/team.port")"
{
    printf 'GET /orgs HTTP/1.1\r\nHost: localhost\r\nX: '
    head -c 70000 "$scratch/large" | tr ' ' x
    printf '\r\n\r\n'
} | send head_too_large 431 "$(cat "$scratch/team.port")"
printf 'no HTTP at all\r\n\r\n' | send no_http 400 "$(cat "$scratch/team.port")"
printf 'GET /orgs HTTP/1.1\r\nHost: localhost\r\n\r\n' | send tls_needed 400 "$(cat "$scratch/team.tls")"

printf 'httplint: %s answers (%s); notes accepted: %s\n' "$(wc -l <"$scratch/linted")" \
    "$(sort "$scratch/linted" | uniq -c | awk '{printf "%s%s:%s", sep, $2, $1; sep = " "}')" \
    "$(grep -cv '^#' "$scratch/accepted")"

step 'HAProxy: requests by HTTP/2, with Host and without :authority'
cat >"$scratch/haproxy.cfg" <<END
defaults
  mode http
  timeout connect 5s
  timeout client 30s
  timeout server 30s
frontend clients
  bind unix@$scratch/haproxy.sock
  default_backend gateway
backend gateway
  server gateway 127.0.0.1:$(cat "$scratch/proxied.port") proto h2
END
haproxy -f "$scratch/haproxy.cfg" >"$scratch/haproxy.log" 2>&1 &
started+=($!)
for _ in $(seq 100); do if [ -S "$scratch/haproxy.sock" ]; then break; fi; sleep 0.1; done
# behind STATUS PATH ARGUMENTS...: what comes of a request through it.
behind() {
    local status=$1 target=$2 came
    shift 2
    came=$(curl --silent --max-time 20 --unix-socket "$scratch/haproxy.sock" --output /dev/null \
        --write-out '%{http_code}' "$@" "http://localhost$target") || true
    [ "$came" = "$status" ] || finding "HAProxy: $target should be $status, and is: ${came:-nothing}"
}
behind 404 "/orgs/tools/export/none?version=$VERSION"
behind 404 "/orgs/tools/export/none?version=$VERSION" --head
behind 202 "/orgs/tools/export?version=$VERSION" "${json[@]}" --data "$body"
behind 413 "/orgs/tools/export?version=$VERSION" "${json[@]}" --data-binary "@$scratch/large"
behind 405 "/orgs/tools/export?version=$VERSION" --request DELETE

step 'gitleaks: secrets in the repository and its history'
if [ "$(id -u)" = 0 ] && apt-cache policy gitleaks 2>/dev/null | grep -q 'Candidate: [^(]'; then
    need gitleaks gitleaks version
fi
if command -v gitleaks >/dev/null; then
    result=0
    gitleaks detect --source . --redact --no-banner >"$scratch/gitleaks" 2>&1 || result=$?
    [ "$result" = 0 ] || { cat "$scratch/gitleaks" >&2; finding "gitleaks ended with $result"; }
    secrets="gitleaks: $(git rev-list --count HEAD) commits"
    printf '%s\n' "$secrets"
else
    printf '######## SECRETS: NOT CHECKED (gitleaks is not installed and no package of it is to be had) ########\n'
    secrets='SECRETS NOT CHECKED'
fi

step 'The program after all that'
for pid in "${started[@]}"; do kill -0 "$pid" 2>/dev/null || finding 'a process has ended by itself'; done
if grep -l 'panicked' "$scratch"/*.log; then finding 'a panic is in the logs above'; fi
[ ! -s "$scratch/findings" ] || fail "$(wc -l <"$scratch/findings") findings, named above"
printf '\ntools.sh: all tools passed; %s.\n' "$secrets"
