#!/usr/bin/env bash
# Tries the static program as the image runs it: alone in a folder that nobody can write, as a user
# that is nobody, without a capability, where names come from /etc/hosts and from DNS, and the only
# authorities are those of the image's one file. `static_check.sh FILE`; needs root, for a namespace of
# its own (network, mounts), and PostgreSQL's programs.
set -euo pipefail
cd "$(dirname "$0")/.."
if [[ ${RATER_INSIDE:-} != 1 ]]; then
    [[ $(id -u) == 0 ]] || { echo 'needs root, for a network and mounts of its own' >&2; exit 1; }
    RATER_INSIDE=1 exec unshare --net --mount --pid --mount-proc --fork --kill-child "$0" "$@"
fi
# shellcheck source=scripts/postgres-bin.sh
. scripts/postgres-bin.sh
bin=$(postgres_bin)
program=$(realpath "$1")
dir=$(mktemp -d)
chmod 755 "$dir"
as_postgres() { (cd / && exec setpriv --reuid postgres --regid postgres --clear-groups "$@"); }
leave() {
    as_postgres "$bin/pg_ctl" -D "$dir/data" -m immediate stop >/dev/null 2>&1 || true
    kill "${dns:-}" "${service:-}" 2>/dev/null || true
    umount -l "$dir/root" 2>/dev/null || true
    rm -rf "$dir"
}
trap leave EXIT
fail() { echo "static_check: $*" >&2; exit 1; }
fine() { echo "fine: $*"; }

python3 - <<'PY'
import fcntl, socket, struct
lo = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
fcntl.ioctl(lo, 0x8914, struct.pack("16sh14x", b"lo", 0x1 | 0x40))  # SIOCSIFFLAGS: up, running
PY
# Answers every question for db.test with 127.0.0.1, and all others with nothing.
python3 - <<'PY' &
import socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", 53))
while True:
    query, peer = server.recvfrom(512)
    end = query.index(0, 12) + 5
    address = query[12:end - 5] == b"\2db\4test" and query[end - 4:end - 2] == b"\0\1"
    head = query[:2] + b"\x81\x80\0\1" + (b"\0\1" if address else b"\0\0") + b"\0\0\0\0"
    answer = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4\x7f\0\0\1" if address else b""
    server.sendto(head + query[12:end] + answer, peer)
PY
dns=$!

# An authority, and a server's certificate of it.
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=authority \
    -keyout "$dir/ca.key" -out "$dir/ca.crt" 2>/dev/null
openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=db.test \
    -keyout "$dir/db.key" -out "$dir/db.csr" 2>/dev/null
openssl x509 -req -in "$dir/db.csr" -CA "$dir/ca.crt" -CAkey "$dir/ca.key" -CAcreateserial -days 2 \
    -extfile <(echo subjectAltName=DNS:db.test) -out "$dir/db.crt" 2>/dev/null
mkdir "$dir/data"
chown postgres "$dir/data" "$dir/db.key"
as_postgres "$bin/initdb" -D "$dir/data" -U rater --auth=trust -E UTF8 --locale=C --no-sync >/dev/null
as_postgres "$bin/pg_ctl" -D "$dir/data" -l "$dir/data/log" -w start -o "-F -k '' -c listen_addresses=127.0.0.1 \
    -c ssl=on -c ssl_cert_file=$dir/db.crt -c ssl_key_file=$dir/db.key" >/dev/null || fail "$(cat "$dir/data/log")"
"$bin/psql" -X -q -h 127.0.0.1 -U rater -d postgres -c 'CREATE DATABASE rater'

# What the image has, and what Kubernetes puts there.
mkdir -p "$dir/root/etc/ssl/certs"
cp "$program" "$dir/root/rater"
cp "$dir/ca.crt" "$dir/root/etc/ssl/certs/ca-certificates.crt"
cp demo/pricebook.yaml "$dir/root/pricebook.yaml"
echo '127.0.0.1 hosts.test' >"$dir/root/etc/hosts"
echo 'nameserver 127.0.0.1' >"$dir/root/etc/resolv.conf"
mount --bind "$dir/root" "$dir/root"
mount -o remount,ro,bind,nosuid,nodev "$dir/root"
alone=(setpriv --no-new-privs --bounding-set=-all,+setuid,+setgid,+sys_chroot
    env -i "$(command -v chroot)" --userspec=65532:65532 --groups= "$dir/root" /rater)
inside() { "${alone[@]}" "$@"; }

inside --version >/dev/null && fine 'it starts'
inside validate /pricebook.yaml && fine 'it reads what is mounted'
said=$(inside health --server http://hosts.test:1 2>&1) && fail "$said"
[[ $said == *refused* ]] || fail "a name of /etc/hosts: $said"
fine 'a name of /etc/hosts is found'
said=$(inside health --server http://db.test:1 2>&1) && fail "$said"
[[ $said == *refused* ]] || fail "a name of DNS: $said"
fine 'a name of DNS is found'
said=$(inside health --server http://nobody.test:1 2>&1) && fail "$said"
[[ $said == *lookup* ]] || fail "no name: $said"
fine 'a name that nobody has is told'
url='postgres://rater@db.test/rater?sslmode=verify-full'
inside migrate up --database-url "$url" >/dev/null
[[ $("$bin/psql" -X -q -A -t -h 127.0.0.1 -U rater -d rater -c "SELECT count(*) FROM rater_schema") == 1 ]]
fine "a database over TLS that the authorities' file proves"
said=$(inside migrate status --database-url "${url/db.test/hosts.test}" 2>&1) && fail "another name passes: $said"
fine 'a database that shows another name is refused'

"${alone[@]}" serve --database-url "$url" --pricebook /pricebook.yaml 2>"$dir/log" &
service=$!
for _ in $(seq 200); do
    ready=$(python3 -c 'import urllib.request as u; print(u.urlopen("http://127.0.0.1:9464/readyz").read().decode())' 2>/dev/null) && break
    kill -0 $service 2>/dev/null || fail "$(tail -n 5 "$dir/log")"
    sleep 0.1
done
[[ ${ready:-} == 'database: ok'* ]] || fail "not ready: $(tail -n 5 "$dir/log")"
grep -q '^Uid:.65532' "/proc/$service/status" || fail "it runs as another user"
grep -qE '^CapEff:.0+$' "/proc/$service/status" || fail "it has capabilities"
fine 'it serves, as 65532, without a capability, and writes nothing'
kill -TERM $service
wait $service || fail "it ended with $?: $(tail -n 5 "$dir/log")"
fine 'it stops'
