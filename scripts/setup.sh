#!/usr/bin/env bash
# Installs what is missing to build and test, on Debian and Ubuntu; elsewhere it says what to
# install. Silent and quick when nothing is missing. `setup.sh lint` also looks for npx.
set -euo pipefail
# shellcheck source=scripts/postgres-bin.sh
. "$(dirname "$0")/postgres-bin.sh"

have() { command -v "$1" >/dev/null 2>&1; }
fail() { printf '%s\n' "$*" >&2; exit 1; }

have_postgres() { postgres_bin >/dev/null; }

# The C library's headers come with no compiler of their own on Debian.
have_cc() { printf '#include <stdlib.h>\n' | cc -E - >/dev/null 2>&1; }

as_root() {
    if [[ $(id -u) == 0 ]]; then "$@"; else sudo "$@"; fi
}

apt_install() {
    local log
    log=$(mktemp)
    echo "installing: $*"
    {
        as_root env DEBIAN_FRONTEND=noninteractive apt-get update -q &&
            as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@"
    } >"$log" 2>&1 </dev/null || { tail -n 20 "$log" >&2; fail "could not install: $*"; }
    rm -f "$log"
}

# Only the programs: Debian's package would also make a cluster and start it on port 5432.
install_postgres() {
    local conf=/etc/postgresql-common/createcluster.d/rater-setup.conf
    as_root mkdir -p "${conf%/*}"
    echo 'create_main_cluster = false' | as_root tee "$conf" >/dev/null
    trap 'as_root rm -f '"$conf" EXIT
    apt_install postgresql
    as_root rm -f "$conf"
    trap - EXIT
}

have cargo || fail 'Rust is missing: install it from https://rustup.rs, open a new shell, and try again'

missing=()
have_cc || missing+=(gcc libc6-dev)
have_postgres || missing+=(postgresql)
if [[ ${1:-} == lint ]] && ! have buf && ! have npx; then
    missing+=(nodejs npm)
fi
[[ ${#missing[@]} == 0 ]] && exit 0

case "$(uname -s)" in
Darwin)
    have_cc || echo 'the C compiler is missing: xcode-select --install' >&2
    have_postgres || echo 'PostgreSQL is missing: brew install postgresql@16' >&2
    [[ " ${missing[*]} " != *' npm '* ]] || echo 'npx is missing: brew install node' >&2
    exit 1
    ;;
esac
have apt-get || fail "missing: ${missing[*]} (PostgreSQL 14 or later); install them and try again"
[[ $(id -u) == 0 ]] || have sudo || fail "missing: ${missing[*]}; as root: apt-get install ${missing[*]}"

others=()
for package in "${missing[@]}"; do
    [[ $package == postgresql ]] || others+=("$package")
done
[[ ${#others[@]} == 0 ]] || apt_install "${others[@]}"
have_postgres || install_postgres
