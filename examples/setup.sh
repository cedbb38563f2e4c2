# Sourced by examples/quickstart.sh and tests/run.sh: brings a fresh Debian 12 to a .venv with Mill in it.
#
# It installs Debian packages only for commands that are missing, starts no service, removes no package, and
# leaves an up-to-date .venv alone. Needs $root (the checkout); sets $python (.venv's).
# Everything a package manager says goes to a log that is shown only when it fails.

say() {
    if [ -t 1 ]; then printf '\033[1m==> %s\033[0m\n' "$*"; else printf '==> %s\n' "$*"; fi
}
fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

setup_log=${TMPDIR:-/tmp}/mill-setup.$$.log
quietly() {
    if ! "$@" >"$setup_log" 2>&1 </dev/null; then
        tail -n 40 "$setup_log" >&2
        rm -f "$setup_log"
        fail "\`$*\` failed; its last lines are above"
    fi
    rm -f "$setup_log"
}

# -- Debian packages ---------------------------------------------------------------------------------------

policy=/usr/sbin/policy-rc.d

# The packages bring services (containerd, docker-registry). Mill starts its own, so none may be started here.
forbid_services() {
    if [ -e "$policy" ] && ! grep -q 'Mill sets up' "$policy"; then
        mv "$policy" "$policy.before-mill"
    fi
    printf '#!/bin/sh\n# Here while Mill sets up: no service starts.\nexit 101\n' >"$policy"
    chmod 755 "$policy"
}

allow_services() {
    rm -f "$policy"
    [ ! -e "$policy.before-mill" ] || mv "$policy.before-mill" "$policy"
}

try_three_times() {
    "$@" || { sleep 2 && "$@"; } || { sleep 5 && "$@"; }
}

apt_install() {
    command -v apt-get >/dev/null || fail "please install: $* (this script knows only apt-get)"
    [ "$(id -u)" = 0 ] || fail "please run as root, or install first: $*"
    say "installing $*"
    export DEBIAN_FRONTEND=noninteractive
    quietly try_three_times apt-get -q update
    trap allow_services EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    forbid_services
    # --no-remove: a Docker that is installed here must not lose its containerd to ours.
    quietly try_three_times apt-get -q -y --no-install-recommends --no-remove -o Acquire::Retries=3 install "$@"
    allow_services
    trap - EXIT INT TERM
}

present() {
    case $1 in
    /*) [ -e "$1" ] ;;
    busybox) command -v busybox >/dev/null && ! ldd "$(command -v busybox)" >/dev/null 2>&1 ;; # the static one
    *) command -v "$1" >/dev/null ;;
    esac
}

# need COMMAND=PACKAGE...: installs the packages whose command (or file) is missing.
need() {
    missing=
    for pair; do
        present "${pair%%=*}" || missing="$missing ${pair#*=}"
    done
    # shellcheck disable=SC2086 # a list of names
    [ -z "$missing" ] || apt_install $missing
}

need_runtime() {
    PATH=$PATH:/usr/sbin:/sbin
    need containerd=containerd runc=runc busybox=busybox-static \
        /usr/share/containers/seccomp.json=golang-github-containers-common \
        /etc/ssl/certs/ca-certificates.crt=ca-certificates
}

# -- Python ------------------------------------------------------------------------------------------------

# The first Python >= 3.11 that can make a venv. (A name may be a version switcher's that leads nowhere: ask it.)
find_python() {
    for candidate in python3.13 python3.12 python3.11 python3 /usr/bin/python3; do
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    return 1
}

# make_venv EXTRAS: $root/.venv with `pip install -e .EXTRAS`; untouched while pyproject.toml and the place are the same.
make_venv() {
    python=$root/.venv/bin/python
    stamp=$root/.venv/installed$1
    state="$root $(sha256sum <"$root/pyproject.toml")"
    if [ "$(cat "$stamp" 2>/dev/null)" = "$state" ] && "$python" -c 'import trio, grpc' 2>/dev/null; then
        return
    fi
    base=$(find_python) || { apt_install python3-venv && base=$(find_python); } || fail "Python 3.11 or later is needed"
    say "making .venv with $("$base" --version)"
    "$python" -c 'import sys; sys.exit(sys.prefix == sys.base_prefix)' 2>/dev/null || rm -rf "$root/.venv"
    [ -x "$python" ] || quietly "$base" -m venv "$root/.venv"
    quietly try_three_times "$python" -m pip install --disable-pip-version-check -e "$root$1"
    printf '%s\n' "$state" >"$stamp"
}
