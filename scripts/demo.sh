#!/usr/bin/env bash
# `make demo` rates sample data on a private PostgreSQL in a folder that goes away with it.
# `make run` does the same in one that stays, and goes on serving until Ctrl-C.
set -euo pipefail
cd "$(dirname "$0")/.."

mode=${1:-demo}
rater=${CARGO_TARGET_DIR:-target}/debug/rater
since=2026-03-02T09:00:00Z until=2026-03-02T12:00:00Z
service=

if [[ $mode == run ]]; then
    if [[ $(id -u) == 0 ]]; then
        # PostgreSQL runs as another user, who may not enter root's home.
        home=/var/tmp/rater
    else
        home=${XDG_STATE_HOME:-$HOME/.local/state}/rater
    fi
    mkdir -p "$home"
    listen=()
else
    home=$(mktemp -d "${TMPDIR:-/tmp}/rater-demo.XXXXXX")
    chmod 755 "$home"
    listen=(--listen 127.0.0.1:0 --admin-listen 127.0.0.1:0)
fi
log=$home/service.log
: >"$log"

stop() {
    trap - EXIT INT TERM
    if [[ -n $service ]]; then
        kill -TERM "$service" 2>/dev/null || true
        wait "$service" 2>/dev/null || true
    fi
    [[ $mode == run ]] || rm -rf "$home"
}
trap stop EXIT
trap 'stop; exit 0' INT TERM

if [[ -t 1 ]]; then bold=$'\033[1m' plain=$'\033[0m'; else bold= plain=; fi
say() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
# A command as a reader would type it, and then what it prints.
show() {
    say "\$ rater $*"
    "$rater" "$@"
}

say "Starting rater and a private PostgreSQL in $home"
"$rater" serve --embedded-postgres "$home/postgres" --migrate --pricebook demo/pricebook.yaml \
    ${listen[@]+"${listen[@]}"} 2>"$log" </dev/null &
service=$!
for _ in $(seq 600); do
    address=$(sed -n '/"listening"/s/.*"address":"\([^"]*\)".*/\1/p' "$log")
    [[ -z $address ]] || break
    kill -0 "$service" 2>/dev/null || break
    sleep 0.1
done
if [[ -z $address ]]; then
    tail -n 20 "$log" >&2
    echo "rater did not start; what it said is above" >&2
    exit 1
fi
export RATER_SERVER=http://$address

say "\$ awk -f demo/events.awk | rater events send -"
awk -f demo/events.awk | "$rater" events send -

code=0
show rate --since "$since" --until "$until" --reason "the demo" || code=$?
case $code in
0) ;;
2)
    say "Exit code 2: it is rated, and something in it needs a person."
    echo "acme/preview has no price in demo/pricebook.yaml. Its events are counted and not billed,"
    echo "not even at 0. With a price there, the same command bills them."
    ;;
*) exit "$code" ;;
esac

show runs anomalies
show usage list --since "$since" --until "$until"
say "What it cost:"
show usage summary --since "$since" --until "$until" --group-by auth_id
show usage summary --since "$since" --until "$until"

if [[ $mode == run ]]; then
    say "Serving on $address until Ctrl-C; the data stays in $home"
    wait "$service"
fi
