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
    admin_address=$(sed -n '/"listening"/s/.*"admin_address":"\([^"]*\)".*/\1/p' "$log")
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

# The same request again, under the same id, gives the same run: the first call prints it for
# people, the second for this script.
rating=(rate --since "$since" --until "$until" --reason "the demo" --request-id "demo-$$-$(date +%s)")
code=0
say "\$ rater rate --since $since --until $until --reason \"the demo\""
"$rater" "${rating[@]}" >"$home/rated.txt" || code=$?
cat "$home/rated.txt"
[[ $code == 0 || $code == 2 ]] || exit "$code"
rated=$("$rater" "${rating[@]}" -o json) || [[ $? == "$code" ]]
field() { sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p" <<<"$rated"; }

show usage list --since "$since" --until "$until"

say "What it cost"
echo "$(field total_cost) $(field currency_code) for $(field rated_events) of $(field events) events, in $(field rollups) rollups."
show usage summary --since "$since" --until "$until" --by auth-id
show usage summary --since "$since" --until "$until" --by model-id --top 3
if [[ $code == 2 ]]; then
    say "What needs a person"
    sed '1,/^$/d' "$home/rated.txt"
    echo
    echo "That is why \`rater rate\` ended with exit code 2: the window is rated, and a finding in it is"
    echo "an ERROR. acme/preview has no price in demo/pricebook.yaml, so its events were counted and not"
    echo "billed, not even at 0. With a price there, the same command bills them."
fi

say "What a pricebook with that price would change; nothing is written"
show rate --since "$since" --until "$until" --dry-run --pricebook demo/next-pricebook.yaml

if [[ $mode == run ]]; then
    say "Serving on $address until Ctrl-C"
    echo "What it logs:         $log"
    echo "Its metrics, health:  http://$admin_address/metrics, /readyz"
    echo "Its database:         PGPASSWORD=\$(cat $home/postgres/password) psql -h 127.0.0.1 \\"
    echo "                          -p \$(sed -n 4p $home/postgres/data/postmaster.pid) -U rater rater"
    wait "$service"
fi
