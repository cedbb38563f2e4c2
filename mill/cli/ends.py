"""How a task ended, as an exit code and as words. Pure; called by `run`, `wait`, `kill`, `inspect` and `ps`."""

from mill.checks import signal_name
from mill.model import Reason, Record, Status

MILL_FAILED = 125
"""As `docker run`: not the task's doing."""
CANNOT_EXECUTE = 126
COMMAND_NOT_FOUND = 127
TIMED_OUT = 124
"""As `timeout` from coreutils."""
SIGNAL_BASE = 128
OUT_OF_MEMORY = SIGNAL_BASE + 9
KILLED = SIGNAL_BASE + 15
"""Of a task that was killed and exited 0, or before it had run: its work was cut short, so that 0 would mislead a script."""

CODES_HELP = """\b
    the task's own code         it exited by itself
    128+n                       it died of signal n, or was killed (143 if that left no code)
    124                         it ran into its timeout
    137                         it ran out of memory
    126, 127                    its command is not executable, is not there
    125                         it could not be pulled or started, or its end is unknown"""

_SELF_EXPLAINED = {Reason.EXIT, Reason.SIGNAL, Reason.KILLED}


def exit_code(record: Record) -> int:  # noqa: PLR0911 -- one for each row of the table of ends
    """What `run` and `wait` exit with."""
    own = record.exit_code
    match record.reason:
        case Reason.EXIT:
            return own if own is not None else MILL_FAILED
        case Reason.SIGNAL:
            return SIGNAL_BASE + record.signal if record.signal else own or MILL_FAILED
        case Reason.KILLED:
            return SIGNAL_BASE + record.signal if record.signal else own or KILLED
        case Reason.OOM:
            return OUT_OF_MEMORY
        case Reason.TIMEOUT:
            return TIMED_OUT
        case Reason.START_ERROR:
            return {"permission": CANNOT_EXECUTE, "command_not_found": COMMAND_NOT_FOUND}.get(
                record.detail or "", MILL_FAILED
            )
        case _:
            return MILL_FAILED if record.status.terminal else 0


def sentence(record: Record) -> str:
    """``x-ab12 failed: oom: ran out of memory ...``; for one that has not ended its id and status."""
    if not record.status.terminal:
        return f"{record.id} is {record.status}"
    return f"{record.id} {record.status}: {why(record)}"


def why(record: Record) -> str:
    """The reason, its detail where that tells more, and the message."""
    message = record.message or _in_short(record)
    if record.reason is None or record.reason in _SELF_EXPLAINED:
        return message
    kind = f"{record.reason} ({record.detail})" if record.detail else str(record.reason)
    return f"{kind}: {message}" if message else kind


def _in_short(record: Record) -> str:
    if record.signal is not None:
        return (
            f"{'killed with' if record.reason is Reason.KILLED else 'died of'} {signal_name(record.signal)}"
        )
    if record.reason is Reason.EXIT:
        return f"exited with code {record.exit_code}"
    return "" if record.reason is not Reason.KILLED else "killed"


def state(record: Record) -> str:
    """The status for a table: ``running``, ``stopped``, ``failed (exit 3)``, ``stopped (killed)``."""
    if record.status is Status.STOPPED and record.reason is Reason.EXIT:
        return str(record.status)
    if not record.status.terminal or record.reason is None:
        return str(record.status)
    if record.reason is Reason.EXIT:
        return f"{record.status} (exit {record.exit_code})"
    if record.reason is Reason.SIGNAL and record.signal is not None:
        return f"{record.status} ({signal_name(record.signal)})"
    return f"{record.status} ({record.reason})"
