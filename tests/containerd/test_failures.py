"""Texts that containerd 1.6 really gave, with runc 1.1 and crun 1.8 to 1.28, and what they mean for the task's owner."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mill.containerd.failures import start_error
from mill.containerd.faults import fault_of
from mill.errors import START_DETAILS, StartError

RUNC = "failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: "
CRUN = "failed to create shim task: OCI runtime create failed: "


def told(text: str) -> StartError:
    return start_error(fault_of("UNKNOWN", text), "/usr/bin/asked")


@pytest.mark.parametrize(("text", "detail", "line"), [
    (RUNC + 'exec: "nosuch": executable file not found in $PATH: unknown', "command_not_found", "the image has no program 'nosuch' in its PATH"),
    (RUNC + 'exec: "/nosuch": stat /nosuch: no such file or directory: unknown', "command_not_found", "the image has no program '/nosuch' (or its interpreter is missing)"),
    (RUNC + 'exec: "/bin/bad": no such file or directory: unknown', "command_not_found", "the image has no program '/bin/bad' (or its interpreter is missing)"),
    (RUNC + 'exec: "/etc/passwd": permission denied: unknown', "permission", "'/etc/passwd' may not be executed: permission denied"),
    (RUNC + 'exec: "/x": exec format error: unknown', "command_not_found", "'/x' cannot be executed: exec: \"/x\": exec format error"),
    (RUNC + 'error during container init: exec: "sh": executable file not found in $PATH: unknown', "command_not_found", "the image has no program 'sh' in its PATH"),
    (RUNC + "unable to setup user: uids and gids must be in range 0-2147483647: unknown", "user", "unable to setup user: uids and gids must be in range 0-2147483647"),
    (RUNC + "error during container init: mkdir /etc/passwd: not a directory: unknown", "runtime", "the working directory cannot be made in the image: mkdir /etc/passwd: not a directory"),
    (RUNC + 'chdir to cwd ("/sec") set in config.json failed: permission denied: unknown', "permission", 'chdir to cwd ("/sec") set in config.json failed: permission denied'),
    (RUNC + 'error during container init: error mounting "/src" to rootfs at "/x": mkdir /x: no space left on device: unknown', "disk", None),
    (RUNC + "error during container init: error setting cgroup config for procHooks process: unable to set memory limit to 1 (current usage: 5, peak usage: 6): unknown", "runtime", None),
    ("failed to prepare extraction snapshot: mkdir /var/x: disk quota exceeded: unknown", "disk", None),
    (CRUN + "executable file `nosuch` not found in $PATH: No such file or directory: unknown", "command_not_found", "the image has no program 'nosuch' in its PATH"),
    (CRUN + "executable file `/nosuch` not found in $PATH: No such file or directory: unknown", "command_not_found", "the image has no program '/nosuch'"),
    (CRUN + "executable file `/no/such` not found: No such file or directory", "command_not_found", "the image has no program '/no/such'"),
    (CRUN + "the path `/etc/passwd` exists but it is not executable: Operation not permitted: unknown", "permission", "'/etc/passwd' may not be executed: permission denied"),
    (CRUN + "open executable: Permission denied: unknown", "permission", "'/usr/bin/asked' may not be executed: permission denied"),
    (CRUN + "open executable: Operation not permitted: unknown", "permission", "'/usr/bin/asked' may not be executed: permission denied"),
    (CRUN + "exec container process `/bin/garbage`: Exec format error: unknown", "command_not_found", "exec container process `/bin/garbage`: Exec format error"),
    (CRUN + "chdir `/etc/passwd/x`: Not a directory: unknown", "runtime", "chdir `/etc/passwd/x`: Not a directory"),
    ('failed to create shim: exec: "nosuchruntime": executable file not found in $PATH: unknown', "command_not_found", None),
    ("context canceled", "runtime", "context canceled"),
    ("two\nlines", "runtime", "two lines"),
    ("", "runtime", ""),
])  # fmt: skip
def test_what_a_text_means(text: str, detail: str, line: str | None) -> None:
    error = told(text)
    assert error.detail == detail
    if line is not None:
        assert str(error) == line


@pytest.mark.parametrize(
    "name", ["no space left on device", "permission denied", "no such user", "disk quota exceeded"]
)
def test_a_programs_name_does_not_decide(name: str) -> None:
    for text in (
        f'{RUNC}exec: "{name}": executable file not found in $PATH: unknown',
        f"{CRUN}executable file `{name}` not found in $PATH: No such file or directory: unknown",
    ):
        assert told(text).detail == "command_not_found"
        assert name in str(told(text))


@given(st.text(max_size=200))
def test_any_text_becomes_one_line_with_a_known_detail(text: str) -> None:
    for prefix in ("", RUNC, CRUN, RUNC + 'exec: "'):
        error = told(prefix + text)
        assert error.detail in START_DETAILS
        assert "\n" not in str(error)
        assert not str(error).startswith("failed to create shim task")
