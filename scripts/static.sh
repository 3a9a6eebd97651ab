#!/usr/bin/env bash
# Builds `rater` as one static file, as the Dockerfile does: it needs nothing of the machine that
# it runs on, and the same source makes the same bytes wherever it lies. Prints where it is, and
# its SHA-256.
#
# It needs a C library to link into it (libc6-dev has it) and the toolchain that is installed.
set -euo pipefail
cd "$(dirname "$0")/.."

host=$(rustc -vV | sed -n 's/^host: //p')
target=${RATER_TARGET:-$host}
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/static
export SQLX_OFFLINE=true CARGO_INCREMENTAL=0
# Whatever asks for the time of the build gets the commit's.
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
# The paths of this machine stay out of it: they would be different bytes, and nobody's business.
RUSTFLAGS="-C target-feature=+crt-static -C strip=symbols"
RUSTFLAGS+=" --remap-path-prefix=$PWD=/rater"
RUSTFLAGS+=" --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo"
RUSTFLAGS+=" --remap-path-prefix=$(rustc --print sysroot)=/rustc"
export RUSTFLAGS
# The same for the C that is compiled on the way.
export CFLAGS="-ffile-prefix-map=$PWD=/rater -ffile-prefix-map=${CARGO_HOME:-$HOME/.cargo}=/cargo"

# With --target, build scripts and macros are built as usual: they can't be static.
cargo build --locked --release --bin rater --target "$target"
binary=$CARGO_TARGET_DIR/$target/release/rater
if readelf -d "$binary" 2>/dev/null | grep -q NEEDED; then
    echo "$binary is not static" >&2
    exit 1
fi
sha256sum "$binary"
