"""Every error that Mill raises for a reason somebody has to read. A leaf: imported by all, imports nothing of Mill.

    MillError
      CallerError                 the caller can mend it; nothing was changed
        FieldError                400  one field is to blame
        Unauthorized              401  no token, or not one of ours
        Forbidden                 403  the token's scope does not reach so far
        NotFound                  404  no such task, template or image
        Conflict                  409  it exists, or is in use, or is defined elsewhere
        TooLarge                  413  the body is over the limit
      NodeError                   the node cannot do it now; nothing was changed
        NoCapacity                503  says what is free
        Unavailable               503  containerd or another part does not answer; try again
        NoSpace                   507  a disk is full
      RuntimeFault                what became of one task: turned into the task's end, never into an answer
        PullError                 its detail is one of PULL_DETAILS
        StartError                its detail is one of START_DETAILS
        Interrupted               the end cannot be known
      SetupError                  milld cannot start: configuration, permission, port, data directory
      ProblemError                what the server answered, as the client sees it
      ConnectionFailed            the client did not reach the server

`status` is the HTTP status of the answer (RFC 9110), `slug` the last part of the problem's ``type`` (RFC 9457).
"""

import errno
from typing import ClassVar

OUT_OF_FILES = frozenset({errno.EMFILE, errno.ENFILE})
"""What the kernel says of a process, or a host, that has no file descriptor left."""
MORE_FILES = "milld is out of file descriptors: wait for tasks to end, or raise its limit (ulimit -n)"
PULL_DETAILS = frozenset({"auth", "not_found", "network", "digest", "timeout", "disk", "invalid"})
START_DETAILS = frozenset({"command_not_found", "permission", "user", "disk", "runtime"})


class MillError(Exception):
    """Base of all; `str()` is one line that says what happened and, where known, what to do."""

    status: ClassVar[int] = 500
    slug: ClassVar[str] = "internal"
    title: ClassVar[str] = "internal error"


class CallerError(MillError):
    status = 400
    slug = "bad-request"
    title = "bad request"


class FieldError(CallerError):
    """One field is to blame; `field` is its path as the caller wrote it (``cpu``, ``mounts[0].target``)."""

    slug = "bad-field"
    title = "bad field"

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.field = field
        self.message = message


class Unauthorized(CallerError):
    status = 401
    slug = "unauthorized"
    title = "not authorized"


class Forbidden(CallerError):
    status = 403
    slug = "forbidden"
    title = "forbidden"


class NotFound(CallerError):
    status = 404
    slug = "not-found"
    title = "not found"


class Conflict(CallerError):
    status = 409
    slug = "conflict"
    title = "conflict"


class TooLarge(CallerError):
    status = 413
    slug = "too-large"
    title = "too large"


class NodeError(MillError):
    status = 503
    slug = "unavailable"
    title = "unavailable"
    retry_after_s: ClassVar[int] = 1


class NoCapacity(NodeError):
    slug = "no-capacity"
    title = "no capacity"


class Unavailable(NodeError):
    pass


class NoSpace(NodeError):
    status = 507
    slug = "no-space"
    title = "no space"


class RuntimeFault(MillError):
    """The end of one task; `detail` is typed, the text is for people."""

    def __init__(self, detail: str, message: str) -> None:
        super().__init__(message)
        self.detail = detail
        self.message = message


class PullError(RuntimeFault):
    slug = "pull-error"
    title = "image cannot be pulled"


class StartError(RuntimeFault):
    slug = "start-error"
    title = "container cannot start"


class Interrupted(RuntimeFault):
    slug = "interrupted"
    title = "end unknown"

    def __init__(self, message: str) -> None:
        super().__init__("", message)


class SetupError(MillError):
    """Nothing was started; the process ends with exit code 2."""


class ProblemError(MillError):
    """An ``application/problem+json`` answer (RFC 9457), as the client received it."""

    def __init__(
        self, http_status: int, title: str, detail: str, *, slug: str = "", field: str | None = None
    ) -> None:
        super().__init__(detail or title)
        self.http_status = http_status
        self.problem = slug
        self.detail = detail
        self.field = field


class ConnectionFailed(MillError):
    """No answer: nobody listens there, or the connection broke. Whether state changed is unknown for a spawn."""
