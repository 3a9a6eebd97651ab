# Sourced: where PostgreSQL's programs are, of the places that `rater --embedded-postgres` knows.

# Prints the folder with the newest ones; fails where there are none. PATH comes last: it may
# hold links to some of the programs alone.
postgres_bin() {
    local bin found
    found=$(
        for bin in /usr/lib/postgresql/*/bin /opt/homebrew/opt/postgresql@*/bin \
            /usr/local/opt/postgresql@*/bin /home/linuxbrew/.linuxbrew/opt/postgresql@*/bin; do
            if [[ -x $bin/initdb && -x $bin/postgres ]]; then echo "$bin"; fi
        done | sort -V | tail -n 1
    )
    if [[ -z $found ]] && command -v initdb >/dev/null 2>&1 && command -v postgres >/dev/null 2>&1; then
        found=$(dirname "$(command -v initdb)")
    fi
    [[ -n $found ]] && echo "$found"
}
