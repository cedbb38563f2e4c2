"""What containerd's answers mean when they are errors. Pure: knows codes, not grpc.

Match on the class or the code, never on the text: texts differ between containerd's versions.

    RpcError                  any other code; `code` is grpc's name for it, such as ``INTERNAL`` (502 to who asked over the API)
      RpcNotFound             often a success: what was to be removed is gone
      RpcAlreadyExists        often a success: what was to be made is there
      RpcFailedPrecondition   not in the state that the call needs
      RpcOutOfRange           a write's offset does not match the ingest
      RpcAborted              lost a race; may be tried again
      RpcTimeout              no answer in time; whether it was done is not known (504)
      RpcUnavailable          not connected, or the connection broke under the call; also `errors.Unavailable`,
                              so that whoever asked over the API is told to try again
"""

from typing import ClassVar

from mill.errors import MillError, Unavailable


class RpcError(MillError):
    """`code` is the name of the grpc status code, `message` containerd's own text."""

    status = 502
    slug = "containerd"
    title = "containerd refused"

    def __init__(self, code: str, message: str) -> None:
        super().__init__(self._line(code, " ".join(message.split())))
        self.code = code
        self.message = message

    _text: ClassVar[str] = "containerd refused ({code}): {message}"

    @classmethod
    def _line(cls, code: str, message: str) -> str:
        return cls._text.format(code=code, message=message)


class RpcNotFound(RpcError):
    pass


class RpcAlreadyExists(RpcError):
    pass


class RpcFailedPrecondition(RpcError):
    pass


class RpcOutOfRange(RpcError):
    pass


class RpcAborted(RpcError):
    pass


class RpcTimeout(RpcError):
    status = 504
    title = "containerd did not answer in time"
    _text = "containerd did not answer in time: {message}"


class RpcUnavailable(Unavailable, RpcError):
    _text = "containerd cannot be reached: {message}"


_CLASSES: dict[str, type[RpcError]] = {
    "NOT_FOUND": RpcNotFound,
    "ALREADY_EXISTS": RpcAlreadyExists,
    "FAILED_PRECONDITION": RpcFailedPrecondition,
    "OUT_OF_RANGE": RpcOutOfRange,
    "ABORTED": RpcAborted,
    "DEADLINE_EXCEEDED": RpcTimeout,
    "UNAVAILABLE": RpcUnavailable,
}


def fault_of(code: str, message: str) -> RpcError:
    """The error for the grpc status code named *code*."""
    return _CLASSES.get(code, RpcError)(code, message)
