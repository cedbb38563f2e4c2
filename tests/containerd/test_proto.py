"""The generated modules and the files they come from say the same, and methods carry messages of their own service."""

from importlib import import_module
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from mill.containerd import proto, rpcs
from mill.containerd.proto import generate
from mill.containerd.rpcs import Rpc

FILES = sorted(path.stem for path in Path(str(proto.__file__)).parent.glob("*.proto"))


@pytest.fixture(scope="module")
def compiled() -> dict[str, FileDescriptorProto]:
    return generate.descriptors()


@pytest.mark.parametrize("name", FILES)
def test_a_generated_module_says_what_its_proto_file_says(
    name: str, compiled: dict[str, FileDescriptorProto]
) -> None:
    committed = FileDescriptorProto()
    import_module(f"mill.containerd.proto.{name}_pb2").DESCRIPTOR.CopyToProto(committed)
    fresh = FileDescriptorProto()
    fresh.CopyFrom(compiled[f"mill/containerd/proto/{name}.proto"])
    for file in (committed, fresh):
        for message in _messages(file):
            for field in message.field:
                field.ClearField(
                    "json_name"
                )  # protoc spells it out in a set, the runtime leaves it to be derived
    assert committed.SerializeToString(deterministic=True) == fresh.SerializeToString(deterministic=True)


def _messages(file: FileDescriptorProto) -> list:  # type: ignore[type-arg]
    found = list(file.message_type)
    for message in found:
        found.extend(message.nested_type)
    return found


def test_every_proto_file_has_a_module_and_no_module_lacks_its_file() -> None:
    directory = Path(str(proto.__file__)).parent
    assert sorted(path.stem.removesuffix("_pb2") for path in directory.glob("*_pb2.py")) == FILES
    assert sorted(path.stem.removesuffix("_pb2") for path in directory.glob("*_pb2.pyi")) == FILES


def test_each_method_is_named_once_and_takes_messages_of_its_own_service() -> None:
    methods = [value for value in vars(rpcs).values() if isinstance(value, Rpc)]
    assert len({rpc.path for rpc in methods}) == len(methods) > 40
    for rpc in methods:
        package = rpc.path.removeprefix("/").rpartition("/")[0].rpartition(".")[0]
        for message in (rpc.request, rpc.response):
            assert message.DESCRIPTOR.file.package in {package, "google.protobuf", "containerd.types"}
