#!/usr/bin/env bash
# Installs what is missing to build and test, on Debian and Ubuntu; elsewhere it says what to
# install. Silent and quick when nothing is missing. `setup.sh lint` also brings what checks the
# contract, the alerts and the manifests: npx (for buf), and in target/tools promtool, kubectl where
# there is none with kustomize 5, and kubernetes-validate.
set -euo pipefail
# shellcheck source=scripts/postgres-bin.sh
. "$(dirname "$0")/postgres-bin.sh"
cd "$(dirname "$0")/.."
tools=target/tools

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

have_promtool() { have promtool || [[ -x $tools/promtool ]]; }
have_kustomize() { scripts/kustomize.sh --help >/dev/null 2>&1; }
have_validate() { [[ -x $tools/python/bin/kubernetes-validate ]]; }
have_venv() { python3 -c 'import ensurepip, venv' >/dev/null 2>&1; }

# Takes one program out of a Debian package, as `unpack PACKAGE PATH [APT OPTIONS]`, without installing it:
# prometheus would start a server, and kubectl needs nothing else.
unpack() {
    local package=$1 path=$2 dir
    shift 2
    dir=$(mktemp -d)
    echo "unpacking: ${path##*/}"
    (cd "$dir" && apt-get "$@" download "$package" && dpkg -x "$package"_*.deb .) >"$dir/log" 2>&1 </dev/null ||
        { tail -n 20 "$dir/log" >&2; fail "could not get ${path##*/} from Debian's package $package; install it"; }
    mkdir -p "$tools"
    mv "$dir/$path" "$tools/${path##*/}"
    rm -rf "$dir"
}

install_promtool() {
    have apt-get || fail 'promtool is missing: install Prometheus, whose archive has it'
    as_root env DEBIAN_FRONTEND=noninteractive apt-get update -q >/dev/null 2>&1 </dev/null || true
    unpack prometheus usr/bin/promtool
}

# Debian 12's own is too old for components; Debian 13's runs there, too. Its list is kept apart from
# the machine's.
install_kubectl() {
    local keys=/usr/share/keyrings/debian-archive-keyring.gpg mirror='' apt
    if [[ -r $keys ]] && have apt-get; then
        mirror=$(apt-get indextargets --format '$(REPO_URI)' 2>/dev/null | grep -m 1 '/debian/$' || true)
    fi
    [[ -n $mirror ]] || fail 'kubectl is missing, or too old: install 1.27 or later'
    apt=$(mktemp -d)
    mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial"
    : >"$apt/status"
    echo "deb [signed-by=$keys] $mirror trixie main" >"$apt/sources.list"
    local options=(-q -o "Dir::Etc::sourcelist=$apt/sources.list" -o Dir::Etc::sourceparts=-
        -o "Dir::State::lists=$apt/lists" -o "Dir::State::status=$apt/status" -o "Dir::Cache=$apt/cache"
        -o APT::Sandbox::User=)
    apt-get "${options[@]}" update >"$apt/log" 2>&1 </dev/null ||
        { tail -n 20 "$apt/log" >&2; fail "could not read Debian 13's list; install kubectl 1.27 or later"; }
    unpack kubectl usr/bin/kubectl "${options[@]}"
    rm -rf "$apt"
}

install_validate() {
    local log
    log=$(mktemp)
    echo 'installing: kubernetes-validate'
    {
        python3 -m venv "$tools/python" &&
            "$tools/python/bin/pip" install --quiet --disable-pip-version-check "kubernetes-validate==$VALIDATE"
    } >"$log" 2>&1 </dev/null || { tail -n 20 "$log" >&2; fail 'could not install kubernetes-validate from PyPI'; }
    rm -f "$log"
}

lint_tools() {
    have_promtool || install_promtool
    have_kustomize || install_kubectl
    have_validate || install_validate
}

# The schemas up to Kubernetes 1.37.
VALIDATE=1.37.0

missing=()
have_cc || missing+=(gcc libc6-dev)
have_postgres || missing+=(postgresql)
if [[ ${1:-} == lint ]] && ! have buf && ! have npx; then
    missing+=(nodejs npm)
fi
if [[ ${1:-} == lint ]]; then
    have_validate || have_venv || missing+=(python3 python3-venv)
fi
if [[ ${#missing[@]} == 0 ]]; then
    [[ ${1:-} != lint ]] || lint_tools
    exit 0
fi

case "$(uname -s)" in
Darwin)
    have_cc || echo 'the C compiler is missing: xcode-select --install' >&2
    have_postgres || echo 'PostgreSQL is missing: brew install postgresql@16' >&2
    [[ " ${missing[*]} " != *' npm '* ]] || echo 'npx is missing: brew install node' >&2
    [[ " ${missing[*]} " != *' python3 '* ]] || echo 'Python 3 is missing: brew install python' >&2
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
[[ ${1:-} != lint ]] || lint_tools
