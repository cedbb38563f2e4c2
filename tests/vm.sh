#!/bin/sh
# A part of the tests on Linux with cgroup v2 alone and systemd: in virtual machines, with each runtime and cgroup driver.
#
#   MILL_VM_RIG=DIR sh tests/vm.sh                       bookworm, trixie and sid; some ten minutes each
#   MILL_VM_RIG=DIR sh tests/vm.sh sid                   one of them
#   MILL_VM_RIG=DIR sh tests/vm.sh sid -k memory         further arguments go to pytest
#
# DIR is any directory with a `run-in-vm.sh` that boots the machine named by --image, with root, systemd, containerd,
# runc, crun and a static busybox, runs a command in it, and gives back its output and exit code:
#
#   run-in-vm.sh --image NAME -t SECONDS -s DIR:DIR:ro|cow ... 'COMMAND'
#
# -s shares a directory of this machine at its own path: the checkout, and the Python that its .venv was made from.
#
#   MILL_VM_RUNTIMES="runc crun"  MILL_VM_DRIVERS="cgroupfs systemd"   the matrix
#   MILL_VM_SECONDS=1500          the longest that one machine may take
#   MILL_VM_FLAGS=                further flags of run-in-vm.sh
#   MILL_TEST_SLOWNESS=10         how much longer than here everything may take there
#
# It prints a line for each machine, runtime and driver at the end, and exits non-zero if one failed.
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
cd "$root"
. examples/setup.sh

rig=${MILL_VM_RIG:-}
[ -x "$rig/run-in-vm.sh" ] || fail "set MILL_VM_RIG to a directory with a run-in-vm.sh; the head of $0 says what it must do"
runtimes=${MILL_VM_RUNTIMES:-runc crun}
drivers=${MILL_VM_DRIVERS:-cgroupfs systemd}
slowness=${MILL_TEST_SLOWNESS:-10}

# What depends on the kernel, systemd and the runtime: the ends, limits and figures, and a milld that comes and goes.
ends=tests/scenarios/test_ends.py
tests="
    $ends::test_exit_0_is_stopped_by_exit
    $ends::test_a_non_zero_exit_is_failed_by_exit_with_its_code
    $ends::test_a_crash_is_failed_by_signal_with_number_and_name
    $ends::test_a_sigkill_from_elsewhere_is_a_signal_and_not_an_oom
    $ends::test_the_memory_limit_is_told_from_other_deaths
    $ends::test_a_memory_kill_that_pid_1_survives_is_counted_and_not_fatal
    $ends::test_a_timeout_ends_a_task_that_ignores_its_signal
    $ends::test_a_registry_that_is_not_there_is_a_pull_error_of_network
    $ends::test_what_cannot_start_is_a_start_error
    $ends::test_a_lost_shim_is_interrupted_without_an_exit_code
    $ends::test_killed_says_who_and_which_signal
    tests/scenarios/test_kills.py::test_a_kill_reaches_every_process_of_the_container
    tests/scenarios/test_container.py::test_cpu_and_memory_are_limits_of_its_control_group
    tests/scenarios/test_restarts.py::test_tasks_outlive_a_milld_that_is_killed
"

suites=
while [ $# -gt 0 ]; do
    case $1 in
    -* | tests/*) break ;;
    *) suites="$suites $1" && shift ;;
    esac
done
suites=${suites:-bookworm trixie sid}
case " $* " in
*" tests/"*) tests= ;;
esac

make_venv '[dev]'
home=$("$python" -c 'import sys; print(sys.base_prefix)')
results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT

# One command for all of a machine's combinations: it boots once.
inside() {
    printf 'cd %s\n' "$root"
    printf 'echo "containerd $(containerd --version | cut -d" " -f3), $(uname -r), $(systemctl --version | head -n 1)"\n'
    for runtime in $runtimes; do
        for driver in $drivers; do
            options="runtime=$runtime"
            [ "$driver" != systemd ] || options="$options systemd-cgroup=true"
            printf 'echo "== %s %s"\n' "$runtime" "$driver"
            printf 'MILL_TEST_SLOWNESS=%s MILL_TEST_OPTIONS="%s" %s -m pytest -p no:cacheprovider -q --tb=short' \
                "$slowness" "$options" "$python"
            # shellcheck disable=SC2086 # a list of names
            printf ' %s' $tests
            for argument; do printf " '%s'" "$(printf %s "$argument" | sed "s/'/'\\\\''/g")"; done
            printf ' && echo "## %s %s passed" || echo "## %s %s FAILED"\n' "$runtime" "$driver" "$runtime" "$driver"
        done
    done
}

for suite in $suites; do
    say "$suite"
    # shellcheck disable=SC2086 # a list of flags
    "$rig/run-in-vm.sh" --image "$suite" ${MILL_VM_FLAGS:-} -t "${MILL_VM_SECONDS:-1500}" \
        -s "$root:$root:cow" -s "$home:$home:ro" "$(inside "$@")" </dev/null 2>&1 | tee "$results/$suite" || :
done

say "results"
failed=0
for suite in $suites; do
    for runtime in $runtimes; do
        for driver in $drivers; do
            # pytest's last line is the one before ours
            counts=$(grep -B 1 "^## $runtime $driver " "$results/$suite" | head -n 1)
            verdict=$(sed -n "s/^## $runtime $driver //p" "$results/$suite")
            [ "$verdict" = passed ] || failed=1
            printf '%-9s %-5s %-9s %-8s %s\n' "$suite" "$runtime" "$driver" "${verdict:-did not run}" "$counts"
        done
    done
done
exit $failed
