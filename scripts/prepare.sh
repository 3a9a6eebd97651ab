#!/usr/bin/env bash
# Refreshes .sqlx, what the statements' types were checked against: the macros write it
# themselves when they find a database and SQLX_OFFLINE_DIR. The server is started by hand,
# since our own code does not compile while .sqlx is stale. `prepare.sh check` fails when what
# is committed is not what came out.
set -euo pipefail
cd "$(dirname "$0")/.."

# shellcheck source=scripts/postgres-bin.sh
. scripts/postgres-bin.sh
bin=$(postgres_bin)
dir=$(mktemp -d)
server=

# PostgreSQL refuses to run as root.
as_server() {
    if [[ $(id -u) == 0 ]]; then
        (cd / && exec setpriv --reuid postgres --regid postgres --clear-groups "$@")
    else
        "$@"
    fi
}

stop() {
    [[ -z $server ]] || { as_server "$bin/pg_ctl" -D "$dir/data" -m immediate stop >/dev/null || true; }
    rm -rf "$dir"
}
trap stop EXIT

# Its socket lies in a folder that nobody else may enter: no password needed.
[[ $(id -u) != 0 ]] || chown postgres "$dir"
as_server "$bin/initdb" -D "$dir/data" -U rater --auth=trust -E UTF8 --locale=C --no-sync >/dev/null
server=started
as_server "$bin/pg_ctl" -D "$dir/data" -l "$dir/log" -w start \
    -o "-c listen_addresses='' -k $dir -F" >/dev/null || { cat "$dir/log" >&2; exit 1; }
psql() { "$bin/psql" -X -q -v ON_ERROR_STOP=1 -h "$dir" -U rater "$@"; }
psql -d postgres -c 'CREATE DATABASE rater'
for step in migrations/*.up.sql; do
    once=(-1)
    if head -n 1 "$step" | grep -q '^-- no-transaction'; then once=(); fi
    PGOPTIONS='-c client_min_messages=warning' psql -d rater ${once[@]+"${once[@]}"} -f "$step" >/dev/null
done

mkdir "$dir/sqlx"
touch src/lib.rs tests/it/main.rs
DATABASE_URL="postgres://rater@localhost/rater?host=$dir" SQLX_OFFLINE=false \
    SQLX_OFFLINE_DIR="$dir/sqlx" cargo check --locked --all-targets
mkdir -p .sqlx
rm -f .sqlx/query-*.json
find "$dir/sqlx" -name '*.json' -exec cp {} .sqlx/ \;
echo "$(find .sqlx -name '*.json' | wc -l | tr -d ' ') statements in .sqlx"
if [[ ${1:-} == check && -n $(git status --porcelain .sqlx) ]]; then
    git status --short .sqlx >&2
    echo '.sqlx is stale: run `make prepare` and commit it' >&2
    exit 1
fi
