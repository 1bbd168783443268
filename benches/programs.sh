# What the benches build; read by them with `.`, after tests/shell.sh.
# shellcheck shell=bash

# programs DIRECTORY NAME...: builds exportgate and these benches of Cargo.toml for release, and copies them there.
programs() {
    local directory=$1 name benches=() built
    shift
    for name in "$@"; do benches+=(--bench "$name"); done
    mkdir -p "$directory"
    built=$(mktemp)
    cargo build --release --locked --bin exportgate "${benches[@]}" --message-format=json-render-diagnostics >"$built"
    python3 - "$built" "$directory" exportgate "$@" <<'PYTHON'
import json, os, shutil, sys

for line in open(sys.argv[1]):
    message = json.loads(line)
    name = message.get("target", {}).get("name")
    if message.get("executable") and name in sys.argv[3:]:
        shutil.copy(message["executable"], os.path.join(sys.argv[2], name))
PYTHON
    rm -f "$built"
}

# plotter DIRECTORY: what the charts are drawn with.
plotter() { venv "$1" matplotlib==3.10.7; }
