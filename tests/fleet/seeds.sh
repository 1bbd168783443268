#!/usr/bin/env bash
# Runs the tests of the shared budget at Snyk's own limits (160 a second, 1,620 a minute), four gateways under greedy clients:
# with all well, and under each failure. A seed varies all times. The cases of a seed run at the same time, for three to five
# minutes; on a machine that is too busy, requests are late, and are counted. Ends with 1 where a case failed.
#
#   tests/fleet/seeds.sh [FIRST [LAST]]      (default: 1 20)
#
# Result: a line for each case on standard output and in target/fleet/seeds.txt.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=tests/shell.sh
. tests/shell.sh

first=${1:-1} last=${2:-${1:-20}}
[ "$#" -gt 0 ] || last=20
cases=(
    four_gateways_share_one_budget_and_use_it
    an_engine_that_is_killed_and_comes_back_empty_lets_nothing_exceed_the_budget
    an_engine_that_is_stopped_holds_nobody_up
    an_engine_whose_data_are_flushed_grants_nothing_twice
    an_engine_that_evicts_the_ledgers_grants_nothing_twice
    an_engine_whose_clock_is_set_grants_nothing_too_early
    a_gateway_that_is_killed_or_stopped_takes_nothing_from_the_others_and_adds_nothing
    a_gateway_that_is_cut_off_by_the_network_goes_on_within_its_own_part
)
out=${CARGO_TARGET_DIR:-target}/fleet
mkdir -p "$out"

step 'What is needed'
need redis-server redis-server --version
need redis-tools redis-cli --version
need python3 python3 --version

step 'Build'
cargo test --locked --test it --no-run --message-format=json-render-diagnostics >"$out/built"
program=$(python3 -c '
import json, sys
for line in open(sys.argv[1]):
    message = json.loads(line)
    if message.get("executable") and message["target"]["name"] == "it":
        print(message["executable"])
' "$out/built")

export EXPORTGATE_FLEET=snyk EXPORTGATE_FLEET_SEED
failed=0
for seed in $(seq "$first" "$last"); do
    step "Seed $seed"
    EXPORTGATE_FLEET_SEED=$seed
    running=()
    for case in "${cases[@]}"; do
        "$program" --exact "fleet::$case" --nocapture >"$out/$seed-$case.log" 2>&1 &
        running+=("$!")
    done
    for at in "${!cases[@]}"; do
        case=${cases[$at]} verdict=held
        wait "${running[$at]}" || verdict=FAILED failed=$((failed + 1))
        # A name that is no test any more would pass for ever.
        grep -q '^running 1 test$' "$out/$seed-$case.log" || fail "there is no test fleet::$case"
        figures=$(grep -m 1 -o '[0-9]* requests, .*' "$out/$seed-$case.log" || printf 'no figures')
        printf 'seed %s, %s: %s: %s\n' "$seed" "$case" "$verdict" "$figures" | tee -a "$out/seeds.txt"
    done
done
[ "$failed" = 0 ] || fail "$failed cases failed; their logs are in $out"
printf '\nseeds.sh: every case held with the seeds %s to %s.\n' "$first" "$last"
