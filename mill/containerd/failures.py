"""containerd's and the runtimes' texts about a failed start, as a typed `StartError` of one line. Pure.

The only place that matches on text: for a failure inside runc or crun, gRPC's code is always UNKNOWN.
"""

import re

from mill.containerd.faults import RpcError
from mill.errors import StartError

_CAUSES = (
    ("disk", ("no space left on device", "disk quota exceeded")),
    (
        "command_not_found",
        ("executable file not found", "not found in $path", "not found: no such file", "exec format error"),
    ),
    ("user", ("unable to find user", "no such user", "unable to setup user", "setgroups")),
    ("permission", ("permission denied", "operation not permitted")),
)
_EXEC = re.compile(r'exec: "((?:[^"\\]|\\.)*)": (.*?)(?:: unknown)?$')
_NO_RUNTIME = re.compile(
    r"unable to retrieve OCI runtime error .*: "
    r'(?:exec: "([^"]+)": executable file not found|fork/exec ([^ ]+): no such file or directory)'
)
"""The shim's own words, of the runtime that it could not run."""
_CRUN_EXEC = re.compile(
    r"^(?:executable file|the path) `(.*)` (not found.*|exists but it is not executable.*)$"
)
_CRUN_OPEN = "open executable: "
"""crun's, of a program that it does not name."""
_PREFIXES = re.compile(
    r"^(?:failed to create shim task: |OCI runtime create failed: |failed to create shim: |runc create failed: "
    r"|unable to start container process: |error during container init: |container_linux\.go:\d+: "
    r"|starting container process caused: |rpc error: code = \w+ desc = )+"
)


def start_error(fault: RpcError, asked: str) -> StartError:
    """What *fault*, the answer to Tasks.Create or Start of a task whose program is *asked*, means for the task's owner."""
    text = _PREFIXES.sub("", " ".join(fault.message.split())).removesuffix(": unknown")
    if missing := _NO_RUNTIME.search(text):
        name = missing[1] or missing[2]
        return StartError(
            "runtime", f"this node has no runtime {name!r}: install it, or name another with --runtime"
        )
    program = _EXEC.search(text) or _CRUN_EXEC.search(text)
    said = (program[2] if program else text).lower()  # without the program's name, which may say anything
    if program and program.re is _EXEC and "no such file or directory" in said:
        return StartError(
            "command_not_found", f"the image has no program {program[1]!r} (or its interpreter is missing)"
        )
    for detail, signs in _CAUSES:
        if any(sign in said for sign in signs):
            named = program[1] if program else asked if text.startswith(_CRUN_OPEN) else ""
            return StartError(detail, _told(detail, text, named))
    if text.startswith("mkdir /"):  # runc's, bare; of a mount it says which one before
        text = f"the working directory cannot be made in the image: {text}"
    return StartError("runtime", text)


def _told(detail: str, text: str, name: str) -> str:
    if detail == "command_not_found" and name:
        if "not found" not in text:
            return f"{name!r} cannot be executed: {text}"
        return f"the image has no program {name!r}" + ("" if name.startswith("/") else " in its PATH")
    if detail == "permission" and name:
        return f"{name!r} may not be executed: permission denied"
    if detail == "disk":
        return f"the disk is full: {text}"
    return text
