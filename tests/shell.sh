# What the scripts here have in common; read by them with `.`.
# shellcheck shell=bash

step() { printf '\n== %s\n' "$*"; }
fail() {
    printf '\n%s: FAILED: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}

# own_scratch: makes the folder scratch, and has it and all that the array started lists end with the script.
own_scratch() {
    scratch=$(mktemp -d)
    started=()
    trap clean_up EXIT
}
clean_up() {
    for pid in "${started[@]}"; do kill "$pid" 2>/dev/null || true; done
    for pid in "${started[@]}"; do wait "$pid" 2>/dev/null || true; done
    rm -rf "$scratch"
}

# need PACKAGE TEST...: runs TEST; where it fails, installs the Debian package.
need() {
    local package=$1 log
    shift
    "$@" >/dev/null 2>&1 && return
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        fail "the package $package is missing: install it (on Debian: apt-get install $package)"
    fi
    printf 'installing %s\n' "$package"
    log=$(mktemp)
    if [ -z "${apt_is_fresh:-}" ]; then
        apt-get update -qq >"$log" 2>&1 || {
            cat "$log" >&2
            fail "apt-get update failed; $package is needed"
        }
        apt_is_fresh=yes
    fi
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$package" >"$log" 2>&1 || {
        cat "$log" >&2
        fail "apt-get could not install $package"
    }
    rm -f "$log"
    "$@" >/dev/null 2>&1 || fail "$package is installed, but \`$*\` still fails"
}

# venv DIRECTORY PIN...: Python programs in a directory of their own, where they are not there already.
venv() {
    local directory=$1
    shift
    if [ "$(cat "$directory/pins" 2>/dev/null || true)" != "$*" ]; then
        printf 'installing into %s: pip install %s\n' "$directory" "$*"
        rm -rf "$directory"
        mkdir -p "$(dirname "$directory")"
        python3 -m venv "$directory"
        "$directory/bin/pip" --quiet --disable-pip-version-check install "$@" ||
            fail "these are missing and were not installed: pip install $*"
        printf '%s' "$*" >"$directory/pins"
    fi
    printf '%s\n' "$@"
}

# listening LOG PATTERN: the first match of PATTERN in LOG, once it is there.
listening() {
    for _ in $(seq 100); do
        if grep -oE -m 1 -- "$2" "$1" 2>/dev/null | head -n 1 | grep .; then return; fi
        sleep 0.1
    done
    cat "$1" >&2
    fail "nothing listens: $2 is not in the output"
}
