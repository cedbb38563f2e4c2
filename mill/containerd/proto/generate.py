"""Writes the ``*_pb2`` modules of every ``proto`` package again: ``python -m mill.containerd.proto.generate``.

A tool for developers (needs grpcio-tools); nothing imports it at run time. The test that modules and ``.proto`` files
agree calls `descriptors`.
"""

import re
import tempfile
from importlib.resources import files
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

ROOT = Path(__file__).parents[3]
"""Imports are written from here (``mill/containerd/proto/...``), so that generated ones are absolute."""


def run(*options: str) -> None:
    """Run protoc over every ``.proto`` file of Mill."""
    from grpc_tools import protoc  # noqa: PLC0415 -- a development dependency, absent where Mill only runs

    sources = [str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("mill/*/proto/*.proto"))]
    includes = [f"--proto_path={ROOT}", f"--proto_path={files('grpc_tools') / '_proto'}"]
    if protoc.main(["protoc", *includes, *options, *sources]) != 0:
        raise SystemExit("protoc failed; its complaint stands above")


def descriptors() -> dict[str, FileDescriptorProto]:
    """What the ``.proto`` files say now, by file name as imports write it, without comments and positions."""
    with tempfile.TemporaryDirectory() as directory:
        target = Path(directory, "set")
        run(f"--descriptor_set_out={target}")
        compiled = FileDescriptorSet.FromString(target.read_bytes())
    return {file.name: file for file in compiled.file}


def loosen() -> None:
    """Let the modules run with any protobuf from 5.26 on: they use nothing newer.

    protoc has them demand a runtime of its own version or later. Agents share an environment with `mill.client`, so that
    such a demand would be theirs to meet.
    """
    for path in ROOT.glob("mill/*/proto/*_pb2.py"):
        text = path.read_text(encoding="utf-8")
        text = re.sub(r"from google\.protobuf import runtime_version as _runtime_version\n", "", text)
        text = re.sub(r"_runtime_version\.ValidateProtobufRuntimeVersion\(.*?\n\)\n", "", text, flags=re.DOTALL)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    run(f"--python_out={ROOT}", f"--pyi_out={ROOT}")
    loosen()
