#!/bin/sh
# All of Mill's checks on a fresh Debian 12 with Python 3.11: installs what is missing, then lint, types and tests.
#
#   sh tests/run.sh              everything, within 12 minutes on two cores: three files at a time, for much of it is waiting
#   sh tests/run.sh -k crash     arguments go to pytest, which then runs one test after the other
#   MILL_LONG=1 sh tests/run.sh  the long ones too
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
cd "$root"
. examples/setup.sh

[ "$(id -u)" = 0 ] || fail "the tests run containers: please run as root"
unset PYTHONDONTWRITEBYTECODE # milld starts a few hundred times: it is compiled once
need_runtime
need docker-registry=docker-registry skopeo=skopeo htpasswd=apache2-utils ip=iproute2 openssl=openssl podman=podman \
    dig=bind9-dnsutils strace=strace dockerd=docker.io
make_venv '[dev]'

say "ruff"
"$python" -m ruff check --quiet .
"$python" -m ruff format --check .
if [ $# -gt 0 ]; then
    say "mypy"
    "$python" -m mypy
    say "pytest"
    exec "$python" -m pytest "$@" </dev/null
fi

again() { # only what failed, and with nothing beside it
    "$python" -m pytest --last-failed --last-failed-no-failures none </dev/null
}

say "mypy and, beside it, pytest"
types=$(mktemp)
"$python" -m mypy >"$types" 2>&1 &
checked=$!
tested=0
"$python" -m pytest -n 3 --dist loadfile --no-loadscope-reorder </dev/null || {
    say "what failed beside others, once more by itself"
    again || {
        say "what failed by itself, a last time"
        again || tested=$?
    }
}
wait "$checked" || tested=$?
cat "$types"
rm -f "$types"
exit "$tested"
