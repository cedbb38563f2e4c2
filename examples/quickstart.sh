#!/bin/sh
# Mill in two minutes: `sh examples/quickstart.sh` on a Debian 12 with Python 3.11, as root.
#
# It installs what is missing, starts a milld of its own (private containerd, temporary data directory, free port),
# runs two tasks, shows how each ended, and removes every trace of itself, also when it fails or is interrupted.
# An existing /var/lib/mill is neither needed nor touched.
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
cd "$root"
. examples/setup.sh

milld= data= node=
trap 'clean_up' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

main() {
    [ "$(id -u)" = 0 ] || fail "Mill runs containers: please run as root"
    need_runtime
    make_venv ''
    bin=$root/.venv/bin
    data=$(mktemp -d /tmp/mill-quick.XXXXXX)

    start_milld
    "$python" examples/busybox_image.py "$data/busybox.tar" >/dev/null
    say "an image out of Debian's busybox, loaded from a file"
    mill images load "$data/busybox.tar"
    echo "    (with a network: mill run --image docker.io/library/busybox -- echo hi)"

    say "a task that runs to its end; its output is live"
    # shellcheck disable=SC2016 # the container's shell expands these
    mill run --image busybox --name hello --cpu 0.1 --memory 64M -- \
        sh -c 'echo "hello from $MILL_TASK_ID: $(id -un), process $$, $(uname -sr)"; sleep 1; echo bye'

    say "one in the background"
    mill spawn --image busybox --name counter --cpu 0.1 --memory 64M -- \
        sh -c 'for i in 1 2 3; do echo "line $i"; sleep 0.5; done' | tee "$data/spawned"
    id=$(sed -n 's/^id: *//p' "$data/spawned")
    mill ps
    mill logs --follow "$id"
    mill wait "$id"
    mill inspect "$id"

    say "one that fails, and why"
    # shellcheck disable=SC2016
    mill run --image busybox --name greedy --cpu 0.1 --memory 16M -- \
        sh -c 'echo "taking more memory than I have"; a=x; while :; do a=$a$a; done' || echo "    exit code $?"
    mill ps --all
    say "done: stopping milld, removing its traces"
}

mill() {
    printf '\n$ mill'
    for word; do
        case $word in
        *[!A-Za-z0-9_./:=-]*) printf " '%s'" "$word" ;;
        *) printf ' %s' "$word" ;;
        esac
    done
    printf '\n'
    "$bin/mill" "$@"
}

start_milld() {
    say "starting milld with a containerd of its own in $data"
    unset MILL_ADDRESS MILL_TOKEN MILL_CONFIG
    export MILL_DATA_DIR="$data/milld" # where `mill` finds the address and the token
    port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    # A session of its own: Ctrl-C is for this script, which then stops milld in order.
    setsid "$bin/milld" --data-dir "$data/milld" --containerd embedded --listen "127.0.0.1:$port" --dns-listen 127.0.0.1:0 \
        --name quickstart \
        >"$data/milld.out" 2>"$data/milld.log" &
    milld=$!
    until grep -s '^milld ready' "$data/milld.out"; do
        kill -0 "$milld" 2>/dev/null || {
            cat "$data/milld.log" >&2
            fail "milld did not start"
        }
        sleep 0.1
    done
    node=$("$bin/mill" status --json | sed -n 's/.*"node_id": *"\([^"]\{8\}\).*/\1/p')
}

# Tasks outlive milld by design; these must not.
clean_up() {
    code=$?
    trap '' INT TERM HUP
    if [ -n "$milld" ]; then
        kill_tasks
        kill -TERM "$milld" 2>/dev/null || :
        wait "$milld" 2>/dev/null || :
    fi
    if [ -n "$data" ]; then
        for process in $(processes_of "$data/milld"); do kill -KILL "$process" 2>/dev/null || :; done
        while [ -n "$(processes_of "$data/milld")" ]; do sleep 0.1; done
        awk -v under="$data/" 'index($2, under) == 1 { print $2 }' /proc/self/mounts | sort -r | xargs -r umount -l
        rm -rf "$data"
    fi
    exit "$code"
}

# By their control groups, which know every process of a container; then the groups themselves go.
kill_tasks() {
    [ -n "$node" ] || return 0
    for group in /sys/fs/cgroup/mill/"$node" /sys/fs/cgroup/*/mill/"$node"; do
        [ -d "$group" ] || continue
        until ! find "$group" -name cgroup.procs -exec cat {} + 2>/dev/null | grep . >"$data/left"; do
            xargs -r kill -KILL <"$data/left" 2>/dev/null || :
            sleep 0.1
        done
        find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || :
        rmdir "${group%/*}" 2>/dev/null || :
    done
}

# By their command lines. (The pattern comes by stdin, or grep would find itself.)
processes_of() {
    printf '%s\n' "$1" | grep -lsF -f - /proc/[0-9]*/cmdline | sed 's,/proc/\([0-9]*\)/.*,\1,' || :
}

main "$@"
