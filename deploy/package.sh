#!/usr/bin/env bash
# Makes what is given to others: the release binary, its man pages and completions, a Debian package and a software
# bill of materials (CycloneDX); has lintian judge the package. Installs what is missing where it can.
#
#   deploy/package.sh [--no-build]      (--no-build: with target/release/exportgate as it is)
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=tests/shell.sh
. tests/shell.sh

readonly CARGO_DEB=3.8.0
readonly CARGO_CYCLONEDX=0.5.9


build=yes
case ${1:-} in
    '') ;;
    --no-build) build=no ;;
    *) fail "unknown: $1" ;;
esac

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# need_cargo NAME VERSION: the same for a program that cargo installs.
need_cargo() {
    command -v "$1" >/dev/null && return
    local install=(cargo install "$1" --version "$2" --locked)
    printf 'installing %s: %s\n' "$1" "${install[*]}"
    "${install[@]}" --quiet || fail "$1 is missing and was not installed: ${install[*]}"
}

step 'What is needed'
command -v cargo >/dev/null || fail 'cargo is missing: install the Rust toolchain that rust-toolchain.toml names'
need build-essential cc --version
need lintian lintian --version
# For $auto: which packages the binary's libraries are in.
need dpkg-dev dpkg-shlibdeps --version
need_cargo cargo-deb "$CARGO_DEB"
need_cargo cargo-cyclonedx "$CARGO_CYCLONEDX"

# The assets in Cargo.toml are below target, whatever CARGO_TARGET_DIR says.
unset CARGO_TARGET_DIR
program=target/release/exportgate
out=target/package
if [ "$build" = yes ]; then
    step 'The release binary'
    cargo build --release --locked
fi
[ -x "$program" ] || fail "$program is missing"
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
[ "$("$program" --version)" = "exportgate $version" ] || fail "$program is $("$program" --version), not $version"

step 'Man pages and completions'
rm -rf "$out"
mkdir -p "$out/man" "$out/completions"
"$program" man "$out/man"
"$program" completions bash >"$out/completions/exportgate.bash"
"$program" completions zsh >"$out/completions/_exportgate"
"$program" completions fish >"$out/completions/exportgate.fish"
bash -n "$out/completions/exportgate.bash" || fail 'the completions for bash are not valid'
[ -s "$out/man/exportgate.1" ] || fail 'exportgate.1 is missing'
ls "$out/man" "$out/completions"

step 'The Debian package'
# The date is the last commit's, so that the same commit gives the same package.
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct 2>/dev/null || date +%s)
export SOURCE_DATE_EPOCH
maintainer=$(sed -n 's/^maintainer = "\(.*\)"$/\1/p' Cargo.toml)
[ -n "$maintainer" ] || fail 'Cargo.toml has no [package.metadata.deb]'
cat >"$out/changelog" <<END
exportgate ($version-1) stable; urgency=medium

  * Version $version: see CHANGELOG.md in the repository.

 -- $maintainer  $(LC_ALL=C date -u -R -d "@$SOURCE_DATE_EPOCH")
END
cargo deb --no-build --locked --output "$out/"
package=$(echo "$out"/*.deb)
[ -f "$package" ] || fail "there should be one package: $package"
dpkg-deb --info "$package"
dpkg-deb --contents "$package"

step 'lintian'
# Anything but hints and what lintian is not sure of is a finding.
lintian --fail-on error,warning --info "$package" || fail 'lintian'

step 'Software bill of materials'
# It writes beside Cargo.toml, and knows no other place.
cargo cyclonedx --quiet --format json --spec-version 1.5 --override-filename exportgate.cdx
# Where this machine has the repository is nobody's business.
sed "s,path+file://$PWD#,path+file:///exportgate#,g" exportgate.cdx.json >"$out/exportgate-$version.cdx.json"
rm exportgate.cdx.json
components=$(python3 -c '
import json, sys

bom = json.load(open(sys.argv[1]))
assert bom["bomFormat"] == "CycloneDX"
print(len(bom["components"]))
' "$out/exportgate-$version.cdx.json")
[ "$components" -gt 50 ] || fail "the bill of materials names $components components only"

step 'Digests'
(cd "$out" && sha256sum ./*.deb ./*.json | tee SHA256SUMS)
printf '\npackage.sh: all is in %s:\n  %s\n  exportgate-%s.cdx.json (%s components)\n  man, completions\n' \
    "$out" "$(basename "$package")" "$version" "$components"
