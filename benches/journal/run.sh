#!/usr/bin/env bash
# Searches in the journal in one place: a PostgreSQL of Debian's with a million requests and 300,000 that joined, in twelve months,
# and the time that `exportgate requests` takes: start of the program, connection, login and search. Run it as root or as a user of
# your own: benches/journal/run.sh [PROGRAM] [ROWS]
set -euo pipefail
cd "$(dirname "$0")/../.."
readonly program="${1:-target/release/exportgate}" rows="${2:-1000000}" runs=9
readonly bin=/usr/lib/postgresql/15/bin
[ -x "$bin/postgres" ] || { echo 'PostgreSQL 15 is missing: apt-get install postgresql-15' >&2; exit 1; }
[ -x "$program" ] || { echo "$program is missing: cargo build --release" >&2; exit 1; }

home=$(mktemp -d)
as=()
if [ "$(id -u)" = 0 ]; then
    chown nobody "$home"
    as=(setpriv --reuid=nobody --regid=nogroup --clear-groups)
fi
server=
trap '[ -z "$server" ] || { kill -INT "$server"; wait "$server" || true; }; rm -rf "$home"' EXIT
"${as[@]}" "$bin/initdb" -U owner -E UTF8 --locale=C -A trust -D "$home/data" >/dev/null
"${as[@]}" "$bin/postgres" -D "$home/data" -k "$home" -c listen_addresses= -c max_wal_size=4GB -c log_statement_stats=on 2>"$home/log" &
server=$!
sql() { "$bin/psql" -XqAt -v ON_ERROR_STOP=1 -h "$home" -U owner "$@"; }
until sql -d postgres -c 'SELECT 1' >/dev/null 2>&1; do sleep 0.1; done
sql -d postgres -c 'CREATE DATABASE audit'
"$program" journal schema | sql -d audit
sql -d audit -c "CREATE ROLE gate LOGIN; GRANT exportgate_writer TO gate"

began=$(date +%s%N)
sql -d audit -v rows="$rows" <<'SQL'
SELECT setseed(0.5);
SELECT exportgate.prepare(('2026-01-01'::date + n * interval '1 month')::date) FROM generate_series(0, 11) n;
CREATE TEMP TABLE n AS SELECT n, timestamp '2026-01-01' + n * (interval '364 days' / :rows) AS at,
    gen_random_uuid()::text AS id, gen_random_uuid()::text AS request, (random() * 199)::int AS org, (random() * 19999)::int AS export,
    (random() * 49)::int AS client, random() AS luck FROM generate_series(1, :rows) n;
INSERT INTO exportgate.attempts
SELECT date_trunc('month', at)::date, 'host', id, (extract(epoch FROM at) * 1000)::bigint, 12345, 'https://api.snyk.io', 'default', 'rest',
    request, 'client-' || client, true, id, CASE WHEN luck < 0.5 THEN id ELSE gen_random_uuid()::text END, 'org', md5(org::text)::uuid::text,
    md5('e' || export)::uuid::text, CASE WHEN luck < 0.1 THEN 'start' ELSE 'results' END, 'GET',
    CASE WHEN luck < 0.01 THEN 404 WHEN luck < 0.012 THEN 503 WHEN luck < 0.013 THEN NULL ELSE 200 END, 'FINISHED', 1000, '2024-10-15',
    '2024-10-15', 'ga', NULL, NULL, CASE WHEN luck BETWEEN 0.012 AND 0.013 THEN 'connection_terminated' END, 1, 0, NULL
FROM n;
INSERT INTO exportgate.served
SELECT date_trunc('month', at)::date, id, gen_random_uuid()::text, 'client-' || (client + 1) % 50, (extract(epoch FROM at) * 1000)::bigint
FROM n WHERE n % 10 < 3;
SQL
filled=$(date +%s%N)
# As autovacuum does after such a fill.
sql -d audit -c 'VACUUM ANALYZE'
printf '%s requests filled in %s s; database %s\n' "$rows" $(((filled - began) / 1000000000)) \
    "$(sql -d audit -c "SELECT pg_size_pretty(pg_database_size('audit'))")"
id=$(sql -d audit -c "SELECT id FROM exportgate.attempts WHERE month = '2026-05-01' LIMIT 1 OFFSET 100")
request=$(sql -d audit -c "SELECT request_id FROM exportgate.served WHERE month = '2026-03-01' LIMIT 1 OFFSET 100")
export_id=$(sql -d audit -c "SELECT export_id FROM exportgate.attempts WHERE month = '2026-05-01' LIMIT 1")
org=$(sql -d audit -c "SELECT scope_id FROM exportgate.attempts WHERE month = '2026-05-01' LIMIT 1")

measure() {
    local times=() begin end inside
    : >"$home/log"
    for ((run = 0; run < runs; run++)); do
        begin=$(date +%s%N)
        env -i HOME="$home" EXPORTGATE_JOURNAL_SHIP_TO="postgresql://gate@/audit?host=$home" \
            "$program" requests --format json "$@" >"$home/found" 2>"$home/said"
        end=$(date +%s%N)
        [ ! -s "$home/said" ] || { cat "$home/said" >&2; exit 1; }
        times+=($(((end - begin) / 10000)))
    done
    mapfile -t times < <(printf '%s\n' "${times[@]}" | sort -n)
    # The mean processor time of all that the server did for a search, login aside: it does not depend on what else runs here.
    inside=$(grep -a 's user, .* elapsed' "$home/log" | grep -v '\[' |
        awk -v runs=$runs '{sum += $2 + $5} END {printf "%.1f", 1000 * sum / runs}')
    # shellcheck disable=SC2016 # Backticks for Markdown.
    printf '| `%s` | %s | %s | %d.%02d | %d.%02d |\n' "$*" "$(grep -c '"started"' "$home/found" || true)" "$inside" \
        $((times[runs / 2] / 100)) $((times[runs / 2] % 100)) $((times[runs - 1] / 100)) $((times[runs - 1] % 100))
}
printf '| Filters | Found | CPU in the database, ms | Program, median ms | Longest, ms |\n|---|---|---|---|---|\n'
measure --limit 50
measure --id "$id"
measure --id "${id:0:8}"
measure --id "$request"
measure --export "$export_id"
measure --export "${export_id:0:8}"
measure --org "$org"
measure --org "${org:0:8}" --status 5xx
measure --client client-7
measure --client client-7 --export "$export_id"
measure --status 404
measure --status error
measure --status 2xx --since 2026-06-01T00:00:00Z --until 2026-07-01T00:00:00Z
measure --client nobody
