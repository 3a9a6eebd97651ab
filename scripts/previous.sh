#!/usr/bin/env bash
# Builds the previous build, the commit in tests/previous, from this clone's own history, and prints
# where its binary is. Its source and its target folder lie in target/previous, and what is built
# stays there. `previous.sh check` only says whether the history is here (exit code 3: it isn't).
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '%s\n' "$*" >&2; }

commit=$(grep -v '^#' tests/previous)
root=${CARGO_TARGET_DIR:-target}/previous

if ! git cat-file -e "$commit^{commit}" 2>/dev/null; then
    say "the previous build can't be made: its commit ${commit:0:12} (tests/previous) is not in this" \
        "clone's history. A shallow clone gets it with \`git fetch --unshallow\`; without git's history" \
        "(an unpacked archive) old and new builds can't be tested beside each other"
    exit 3
fi
[[ ${1:-} != check ]] || exit 0

# By its commit, so that another one never meets what is left of this one; whole or not at all.
source=$root/$commit
if [[ ! -d $source ]]; then
    mkdir -p "$root"
    unpacked=$(mktemp -d "$root/unpacking.XXXXXX")
    trap 'rm -rf "$unpacked"' EXIT
    git archive "$commit" | tar -x -C "$unpacked"
    [[ -d $source ]] || mv "$unpacked" "$source"
fi
target=$(cd "$root" && pwd)/target
# Nothing of this build's settings reaches it; where nothing changed this is over at once.
env -u DATABASE_URL SQLX_OFFLINE=true CARGO_TARGET_DIR="$target" \
    cargo build --locked --quiet --bin rater --manifest-path "$source/Cargo.toml" >&2
binary=$root/rater-$commit
# A copy, so that another commit's build in the same folder does not replace it.
[[ -x $binary ]] || { cp "$target/debug/rater" "$binary.$$" && mv "$binary.$$" "$binary"; }
printf '%s\n' "$(cd "$root" && pwd)/rater-$commit"
