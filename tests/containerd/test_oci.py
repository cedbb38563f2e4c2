"""Manifests, indexes and configs: what is read out of them and what is refused."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mill.containerd import oci
from tests.images import OciImage, dump, make_index, make_layer

HOST = oci.Platform("amd64")
ARM = oci.platform_of("armv7l")
LAYER = make_layer({"a": b"1"})


def entry(architecture: str, variant: str = "", os: str = "linux", n: int = 0) -> oci.Descriptor:
    digest = oci.digest_of(f"{architecture}{variant}{os}{n}".encode())
    return oci.Descriptor(oci.OCI_MANIFEST, digest, 1, (os, architecture, variant))


def manifest_of(image: OciImage) -> dict[str, Any]:
    document = json.loads(image.made().manifest)
    assert isinstance(document, dict)
    return document


@pytest.mark.parametrize("docker_types", [False, True])
def test_a_manifest_of_either_kind_gives_config_and_layers(docker_types: bool) -> None:  # noqa: FBT001 -- pytest's parameter
    made = OciImage([LAYER], docker_types=docker_types).made()
    manifest = oci.parse_manifest(made.manifest)
    assert isinstance(manifest, oci.Manifest)
    assert manifest.media_type == made.manifest_type
    assert {manifest.config.digest, manifest.layers[0].digest} == set(made.blobs)


def test_without_a_media_type_the_content_type_decides() -> None:
    made = OciImage([LAYER], media_type_in_manifest=False).made()
    manifest = oci.parse_manifest(made.manifest, oci.DOCKER_MANIFEST + "; charset=utf-8")
    assert manifest.media_type == oci.DOCKER_MANIFEST
    assert oci.parse_manifest(made.manifest).media_type == oci.OCI_MANIFEST
    index = dump({"schemaVersion": 2, "manifests": []})
    assert isinstance(oci.parse_manifest(index, "application/json"), oci.Index)


def test_the_entry_for_this_platform_is_chosen_and_attestations_are_not() -> None:
    entries = [
        entry("unknown", os="unknown"),
        entry("arm64", "v8"),
        entry("amd64", os="windows"),
        entry("amd64"),
    ]
    assert oci.choose(entries, HOST) is entries[3]


def test_the_best_variant_that_runs_is_chosen() -> None:
    v5, v6, v8 = entry("arm", "v5"), entry("arm", "v6"), entry("arm", "v8")
    assert oci.choose([v5, v8, v6], ARM) is v6
    plain, v2 = entry("amd64"), entry("amd64", "v2")
    assert oci.choose([v2, plain], HOST) is plain
    assert oci.choose([v2], HOST) is v2


def test_a_missing_platform_is_told_with_those_that_are_there() -> None:
    with pytest.raises(ValueError, match=r"no image for linux/amd64, only for linux/arm64, windows/amd64"):
        oci.choose([entry("arm64"), entry("amd64", os="windows"), entry("unknown", os="unknown")], HOST)


def test_a_lone_entry_without_a_platform_is_taken() -> None:
    silent = oci.Descriptor(oci.OCI_MANIFEST, oci.digest_of(b"x"), 1)
    assert oci.choose([silent], HOST) is silent
    assert oci.choose([entry("arm64"), silent], HOST) is silent


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\xff\xfe", "not JSON"),
        (b"[1]", "no JSON object"),
        (b"[" * 100_000, "not JSON"),
        (dump({"schemaVersion": 1, "name": "a", "fsLayers": []}), "schema 1"),
        (dump({"schemaVersion": 2, "mediaType": oci.OCI_MANIFEST}), "names no config"),
        (dump({"schemaVersion": 2, "mediaType": "application/vnd.cncf.helm"}), "helm"),
        (dump({"manifests": "x"}), "no list 'manifests'"),
        (dump({"manifests": [{"digest": "sha256:xyz", "size": 1}]}), "no sha256 digest"),
        (dump({"manifests": [{"digest": "sha256:" + "0" * 64, "size": -1}]}), "no valid size"),
        (dump({"manifests": [{"digest": "sha256:" + "0" * 64, "size": True}]}), "no valid size"),
        (dump({"manifests": [1]}), "no object"),
    ],
)
def test_a_document_that_is_no_manifest_says_why(data: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        oci.parse_manifest(data)


def test_a_manifest_with_absurdly_many_layers_is_refused() -> None:
    document = manifest_of(OciImage([LAYER]))
    document["layers"] *= 1000
    with pytest.raises(ValueError, match="1000 layers"):
        oci.parse_manifest(dump(document))


def test_a_config_gives_all_that_running_needs() -> None:
    config = oci.parse_config(
        OciImage(
            [LAYER],
            {
                "Entrypoint": ["/bin/sh", "-c"], "Cmd": ["ls"], "Env": ["A=1"], "User": "nobody:users", "WorkingDir": "/srv",
                "StopSignal": "SIGINT", "ExposedPorts": {"80/tcp": {}, "53/udp": {}}, "Volumes": {"/data": {}}, "Labels": {"a": "b"},
            },
        ).config_bytes
    )  # fmt: skip
    assert (config.entrypoint, config.cmd, config.env) == (("/bin/sh", "-c"), ("ls",), ("A=1",))
    assert (config.user, config.workdir, config.stop_signal) == ("nobody:users", "/srv", "SIGINT")
    assert (config.exposed_ports, config.volumes, config.labels) == (
        ("53/udp", "80/tcp"),
        ("/data",),
        {"a": "b"},
    )
    assert config.diff_ids == (oci.digest_of(LAYER),)


def test_nulls_in_a_config_are_like_absence() -> None:
    text = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": None, "Env": None, "Labels": None, "User": None},
    }
    config = oci.parse_config(dump({**text, "rootfs": {"diff_ids": ["sha256:" + "0" * 64]}}))
    assert config == oci.ImageConfig("amd64", "linux", ("sha256:" + "0" * 64,))
    assert (
        oci.parse_config(dump({**text, "config": None, "rootfs": {"diff_ids": ["sha256:" + "0" * 64]}}))
        == config
    )


@pytest.mark.parametrize("broken", [{"Entrypoint": "sh"}, {"Env": [1]}, {"User": 5}, {"Labels": ["a"]}])
def test_a_config_with_a_field_of_the_wrong_type_is_refused(broken: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=repr(next(iter(broken)))):
        oci.parse_config(OciImage([LAYER], broken).config_bytes)


def test_a_config_without_layers_is_no_container_image() -> None:
    with pytest.raises(ValueError, match="lists no layers"):
        oci.parse_config(dump({"architecture": "amd64", "os": "linux"}))


def test_chain_ids_are_those_of_the_specification() -> None:
    a, b, c = ("sha256:" + x * 64 for x in "abc")
    first = oci.digest_of(f"{a} {b}".encode())
    assert oci.chain_ids([a, b, c]) == (a, first, oci.digest_of(f"{first} {c}".encode()))
    assert oci.chain_ids([]) == ()


def test_an_image_for_another_platform_is_refused() -> None:
    image = OciImage([LAYER], architecture="s390x")
    manifest = oci.parse_manifest(image.made().manifest)
    assert isinstance(manifest, oci.Manifest)
    with pytest.raises(ValueError, match="for linux/s390x, this node is linux/amd64"):
        oci.check_runs_on(oci.parse_config(image.config_bytes), manifest, HOST)


def test_layers_and_diff_ids_must_pair() -> None:
    manifest = oci.parse_manifest(OciImage([LAYER, LAYER], architecture="amd64").made().manifest)
    assert isinstance(manifest, oci.Manifest)
    with pytest.raises(ValueError, match="2 layers, the config 1"):
        oci.check_runs_on(
            oci.parse_config(OciImage([LAYER], architecture="amd64").config_bytes), manifest, HOST
        )


def test_a_made_manifest_reads_back() -> None:
    made = OciImage([LAYER]).made()
    manifest = oci.parse_manifest(made.manifest)
    assert isinstance(manifest, oci.Manifest)
    assert oci.parse_manifest(oci.manifest_bytes(manifest.config, manifest.layers)) == manifest


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
keys = st.sampled_from(
    [
        "mediaType",
        "manifests",
        "config",
        "layers",
        "rootfs",
        "diff_ids",
        "digest",
        "size",
        "platform",
        "os",
        "Env",
    ]
)
documents = st.dictionaries(
    keys, st.dictionaries(keys, json_values) | st.lists(st.dictionaries(keys, json_values)) | json_values
)


@given(documents)
def test_no_document_raises_anything_but_a_value_error(document: dict[str, Any]) -> None:
    for read in (oci.parse_manifest, oci.parse_config):
        with suppress(ValueError):
            read(dump(document))


def test_an_index_lists_its_entries_with_their_platforms() -> None:
    made = OciImage([LAYER]).made()
    index = oci.parse_manifest(make_index([made.platform_descriptor]))
    assert isinstance(index, oci.Index)
    assert index.manifests[0].digest == made.digest
    assert index.manifests[0].platform == ("linux", made.architecture, "")
