#!/usr/bin/env bash
# Makes the secrets of compose.yaml: a certificate for localhost, a client and its key, a token for the fake Snyk, passwords, the
# key that seals what the gateways share, and the user of Valkey. Files that are there already stay as they are.
#
#   deploy/compose/secrets.sh [DIRECTORY]      (default: deploy/compose/secrets)
#
# EXPORTGATE names the program (default: the image, run once).
set -euo pipefail
cd "${1:-$(dirname "$0")/secrets}" 2>/dev/null || {
    mkdir -m 0700 "${1:-$(dirname "$0")/secrets}"
    cd "${1:-$(dirname "$0")/secrets}"
}
read -ra program <<<"${EXPORTGATE:-docker run --rm exportgate:0.1.0}"
# In the containers others than their owner read them; only this directory keeps other users of this machine out.
umask 022
# The rights that the gateways need, and no other (docs/operations.md, "Many machines").
rights='~exportgate:* &exportgate:* -@all +hello +auth +select +script|load +eval +evalsha +subscribe +publish +info +time +hget +hmget +hset +hdel +hgetall +del +rpush +ltrim +lrange +pttl +pexpire'

if [ ! -e tls.crt ]; then
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 365 -subj /CN=localhost \
        -addext subjectAltName=DNS:localhost,DNS:gateway-1,DNS:gateway-2 -addext basicConstraints=critical,CA:FALSE \
        -keyout tls.key -out tls.crt 2>/dev/null
    chmod 0644 tls.key
fi
if [ ! -e clients.toml ]; then
    "${program[@]}" key new --client trial >client-key 2>notes
    {
        printf '[clients.trial]\n'
        grep '^keys = ' notes
        printf 'orgs = "*"\noperations = ["read", "files", "start"]\n'
    } >clients.toml
    rm notes
fi
[ -e snyk-token ] || printf 'any\n' >snyk-token
[ -e seal.key ] || "${program[@]}" key new --seal >seal.key 2>/dev/null
for name in valkey postgres postgres-owner; do
    [ -e "$name-password" ] || openssl rand -hex 24 >"$name-password"
done
"${program[@]}" journal schema >schema.sql
printf "CREATE ROLE exportgate LOGIN PASSWORD '%s';\nGRANT exportgate_writer TO exportgate;\n" \
    "$(tr -d '\n' <postgres-password)" >login.sql
{
    # As a hash: this file alone opens nothing.
    printf 'user default off\n'
    printf 'user health on nopass -@all +ping\n'
    printf 'user exportgate on #%s %s\n' "$(tr -d '\n' <valkey-password | sha256sum | cut -d ' ' -f 1)" "$rights"
} >valkey.acl
