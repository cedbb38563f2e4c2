"""Image archives as files: what is found in them, and what bombs, cut files and crooked links come to."""

import gzip
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mill.containerd import archive, layout, oci
from mill.containerd.layout import ArchivedImage, Member, NameNeeded
from tests import images
from tests.images import Entry, OciImage, link, make_layer, write_docker_archive, write_oci_archive

HOST = oci.Platform(images.ARCHITECTURE)
FIRST, SECOND = make_layer({"first": b"1" * 5000}), make_layer({"second": b"2"})
ONE = OciImage([FIRST])
TWO = OciImage([FIRST, SECOND, FIRST], {"Cmd": ["two"]})

Write = Callable[..., Path]


async def read(path: Path, name: str | None = None) -> list[ArchivedImage]:
    return layout.read(await trio.to_thread.run_sync(archive.scan, path), HOST, name)


async def layer_bytes(path: Path, image: ArchivedImage) -> list[bytes]:
    """Every layer's bytes, in order, as a load would read them."""
    members = await trio.to_thread.run_sync(archive.scan, path)
    with archive.opened(path) as file:
        found = []
        for layer in image.manifest.layers:
            member = members[image.members[layer.digest]]
            found.append(await trio.to_thread.run_sync(file.read_at, member.position, member.size))
        return found


def raw(path: Path, members: dict[str, bytes | Entry]) -> Path:
    path.write_bytes(make_layer(members))
    return path


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
@pytest.mark.parametrize("write", [write_oci_archive, write_docker_archive])
async def test_images_and_layers_are_found_in_either_kind_however_compressed(
    tmp_path: Path, write: Write, compression: str
) -> None:
    path = write(tmp_path / "a.tar", {"example.com/one:v1": ONE, "two": TWO}, compression=compression)
    one, two = await read(path)
    assert (one.names, two.names) == (("example.com/one:v1",), ("docker.io/library/two:latest",))
    assert (one.config_bytes, two.config_bytes) == (ONE.config_bytes, TWO.config_bytes)
    assert await layer_bytes(path, one) == [FIRST]
    assert await layer_bytes(path, two) == [FIRST, SECOND, FIRST]
    for image in (one, two):
        assert [layer.digest for layer in image.manifest.layers] == list(image.config.diff_ids)
        assert oci.parse_manifest(image.documents[-1][1]) == image.manifest


async def test_compressed_layers_keep_their_own_digests(tmp_path: Path) -> None:
    image = OciImage([FIRST], compression="zstd")
    (found,) = await read(write_oci_archive(tmp_path / "a.tar", {"x": image}))
    assert found.documents[0][1] == image.made().manifest
    packed = gzip.compress(FIRST, mtime=0)
    listing = [{"Config": "c.json", "RepoTags": ["x:1"], "Layers": ["l.tar.gz"]}]
    docker = raw(
        tmp_path / "b.tar",
        {"l.tar.gz": packed, "c.json": ONE.config_bytes, "manifest.json": images.dump(listing)},
    )
    (found,) = await read(docker)
    assert found.manifest.layers == (
        oci.Descriptor(oci.OCI_LAYER + "+gzip", images.digest_of(packed), len(packed)),
    )
    assert await layer_bytes(docker, found) == [packed]


async def test_what_skopeo_writes_is_understood(tmp_path: Path) -> None:
    source = write_oci_archive(tmp_path / "a.tar", {"localhost/one:v1": ONE})
    for target, name in (("docker-archive:{}:localhost/one:v2", None), ("oci-archive:{}:localhost/one:v2", None),
                         ("oci-archive:{}", "localhost/one:v2"), ("oci-archive:{}:v2", "localhost/one:v2")):  # fmt: skip
        path = tmp_path / "b.tar"
        path.unlink(missing_ok=True)
        copy = [
            "skopeo",
            "copy",
            "--quiet",
            "--insecure-policy",
            f"oci-archive:{source}",
            target.format(path),
        ]
        await trio.run_process(copy)
        (found,) = await read(path, name)
        assert found.names == ("localhost/one:v2",)
        assert found.config.diff_ids == (images.digest_of(FIRST),)


async def test_an_index_within_the_index_leads_to_this_platform(tmp_path: Path) -> None:
    other = OciImage([SECOND], architecture="s390x")
    made = [ONE.made(), other.made()]
    inner = images.make_index([m.platform_descriptor for m in made])
    notes = {"io.containerd.image.name": "x:1"}
    outer = images.make_index([{**images.descriptor(inner, oci.OCI_INDEX), "annotations": notes}])
    blobs = {images.digest_of(inner): inner}
    for m in made:
        blobs |= {**m.blobs, m.digest: m.manifest}
    members = {"oci-layout": b"{}", "index.json": outer, **images.blob_members(blobs)}
    (found,) = await read(raw(tmp_path / "a.tar", members))
    assert found.config.diff_ids == (images.digest_of(FIRST),)
    assert [blob.digest for blob, _ in found.documents] == [images.digest_of(inner), made[0].digest]
    # Tools may leave out what is for other platforms.
    for digest in (made[1].digest, *made[1].blobs):
        members.pop("blobs/" + digest.replace(":", "/"))
    assert await read(raw(tmp_path / "b.tar", members)) == [found]


async def test_an_image_for_another_platform_is_refused(tmp_path: Path) -> None:
    path = write_oci_archive(tmp_path / "a.tar", {"x": OciImage([FIRST], architecture="s390x")})
    with pytest.raises(ValueError, match="for linux/s390x, this node is linux/"):
        await read(path)


# -- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", [write_oci_archive, write_docker_archive])
async def test_a_given_name_replaces_that_of_the_only_image(tmp_path: Path, write: Write) -> None:
    for name in ("x:1", ""):
        (found,) = await read(write(tmp_path / "a.tar", {name: ONE}), "given")
        assert found.names == ("docker.io/library/given:latest",)


@pytest.mark.parametrize("write", [write_oci_archive, write_docker_archive])
async def test_an_archive_without_names_needs_one(tmp_path: Path, write: Write) -> None:
    with pytest.raises(NameNeeded, match="names no image"):
        await read(write(tmp_path / "a.tar", {"": ONE}))


@pytest.mark.parametrize("write", [write_oci_archive, write_docker_archive])
async def test_several_images_cannot_share_a_given_name(tmp_path: Path, write: Write) -> None:
    with pytest.raises(NameNeeded, match="holds 2 images"):
        await read(write(tmp_path / "a.tar", {"a": ONE, "b": TWO}), "given")


async def test_a_bad_name_is_the_names_fault_only_if_it_was_given(tmp_path: Path) -> None:
    path = write_oci_archive(tmp_path / "a.tar", {"NOT/a name": ONE})
    with pytest.raises(NameNeeded, match="lower case"):
        await read(path, "Given")
    with pytest.raises(ValueError, match="white space") as caught:
        await read(path)
    assert not isinstance(caught.value, NameNeeded)


# -- what is no archive ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b"\0" * 10240,
        b"\x1f\x8b",
        b"\x28\xb5\x2f\xfd",
        gzip.compress(b"hello", mtime=0),
        images.compress(b"hello", "zstd"),
        make_layer({"some": b"file"}),
        gzip.compress(make_layer({"oci-layout": b"{}"}), mtime=0),
        b"PK\x03\x04" + b"x" * 600,
    ],
)
async def test_a_file_of_another_kind_is_said_to_be_none(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"^(is neither an OCI nor a Docker image archive|is damaged)"):
        await read(path)


async def test_a_missing_file_or_a_folder_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(ValueError, match=r"^cannot be read: "):
            await read(path)


@pytest.mark.parametrize("write", [write_oci_archive, write_docker_archive])
@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
async def test_a_cut_archive_is_refused_wherever_it_was_cut(
    tmp_path: Path, write: Write, compression: str
) -> None:
    whole = write(tmp_path / "a", {"x": TWO}, compression=compression).read_bytes()
    useful = (
        len(whole) if compression != "none" else whole.rindex(b"]" if write is write_docker_archive else b"}")
    )
    for cut in range(useful * 9 // 10, 0, -max(1, useful // 12)):
        (tmp_path / "cut").write_bytes(whole[:cut])
        with pytest.raises(ValueError, match=r"^(is|has|lists|the) ?"):
            await read(tmp_path / "cut")


def oci_members() -> dict[str, Any]:
    made = ONE.made()
    index = images.make_index([{**made.descriptor, "annotations": {"io.containerd.image.name": "x:1"}}])
    return {
        "oci-layout": b"{}",
        "index.json": index,
        **images.blob_members({**made.blobs, made.digest: made.manifest}),
    }


async def test_a_missing_or_changed_blob_is_named(tmp_path: Path) -> None:
    made = ONE.made()
    layer = "blobs/" + images.digest_of(FIRST).replace(":", "/")
    manifest = "blobs/" + made.digest.replace(":", "/")
    for name, change, why in (
        (layer, None, f"layer {images.digest_of(FIRST)} is missing"),
        (layer, b"short", "missing or has another size"),
        (manifest, None, f"is incomplete: '{manifest}' is missing"),
        (manifest, made.manifest + b" ", "does not match its digest"),
        ("index.json", b"[]", "no JSON object"),
        ("index.json", b"{}", "no list 'manifests'"),
        ("index.json", images.make_index([]), "holds no image"),
    ):
        members = oci_members()
        members.pop(name)
        if change is not None:
            members[name] = change
        with pytest.raises(ValueError, match=why.replace("'", ".")):
            await read(raw(tmp_path / "a.tar", members))


async def test_links_in_a_docker_archive_are_followed_within_it_only(tmp_path: Path) -> None:
    def members(layer: Entry) -> dict[str, bytes | Entry]:
        listing = [{"Config": "c.json", "RepoTags": ["x:1"], "Layers": ["a/layer.tar"]}]
        return {
            "b/l": FIRST,
            "a/layer.tar": layer,
            "c.json": ONE.config_bytes,
            "manifest.json": images.dump(listing),
        }

    (found,) = await read(raw(tmp_path / "a.tar", members(link("../b/l"))))
    assert list(found.members.values()) == ["b/l"]
    for target, why in (
        ("/etc/passwd", "is missing"),
        ("../../../etc/passwd", "is missing"),
        ("layer.tar", "round in circles"),
    ):
        with pytest.raises(ValueError, match=why):
            await read(raw(tmp_path / "a.tar", members(link(target))))


async def test_a_hard_link_stands_for_its_file(tmp_path: Path) -> None:
    listing = [{"Config": "c.json", "RepoTags": ["x:1"], "Layers": ["a/layer.tar"]}]
    path = raw(
        tmp_path / "a.tar", {"b/l": FIRST, "c.json": ONE.config_bytes, "manifest.json": images.dump(listing)}
    )
    with tarfile.open(path, "a") as tar:
        info = tarfile.TarInfo("a/layer.tar")
        info.type, info.linkname = tarfile.LNKTYPE, "b/l"
        tar.addfile(info)
    (found,) = await read(path)
    assert list(found.members.values()) == ["b/l"]


async def test_too_many_members_and_absurd_headers_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.tar"
    bomb = tarfile.TarInfo("x")
    bomb.type, bomb.size = tarfile.XHDTYPE, 2**32
    path.write_bytes(bomb.tobuf() + b"\0" * 10240)
    with pytest.raises(ValueError, match="absurdly large headers"):
        await read(path)
    monkeypatch.setattr(archive, "_MEMBERS_LIMIT", 3)
    with pytest.raises(ValueError, match="too many members"):
        await read(raw(path, {str(n): b"" for n in range(4)}))


async def test_large_documents_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "_DOCUMENT_LIMIT_BYTES", 100)
    monkeypatch.setattr(archive, "_DOCUMENTS_LIMIT_BYTES", 150)
    members = await trio.to_thread.run_sync(
        archive.scan, raw(tmp_path / "a", {"a": b"{" * 100, "b": b"{" * 101})
    )
    assert [member.document for member in members.values()] == [b"{" * 100, None]
    with pytest.raises(ValueError, match="too many members"):
        await read(raw(tmp_path / "a", {"a": b"{" * 100, "b": b"{" * 51}))


async def test_a_cancelled_scan_ends_soon(tmp_path: Path) -> None:
    """A gzip bomb of 4 GiB takes many seconds to read through."""
    path = tmp_path / "bomb.gz"
    info = tarfile.TarInfo("zeros")
    info.size = 2**32
    beginning, zeros = io.BytesIO(), gzip.compress(bytes(2**24), 9)
    with gzip.GzipFile(fileobj=beginning, mode="wb") as out:
        out.write(info.tobuf())
    with path.open("wb") as file:
        file.write(beginning.getvalue())
        for _ in range(2**32 // 2**24):
            file.write(zeros)
    with trio.fail_after(3), trio.move_on_after(0.2) as scope:
        await trio.to_thread.run_sync(archive.scan, path)
    assert scope.cancelled_caught


names = st.sampled_from(
    ["oci-layout", "index.json", "manifest.json", "c.json", "a/layer.tar", "blobs/sha256/" + "0" * 64]
)
values = st.recursive(
    st.none() | st.integers() | st.sampled_from(["c.json", "a/layer.tar", "x:1", "sha256:" + "0" * 64]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(
                [
                    "manifests",
                    "Config",
                    "Layers",
                    "RepoTags",
                    "digest",
                    "size",
                    "config",
                    "layers",
                    "rootfs",
                    "diff_ids",
                ]
            ),
            inner,
        )
    ),
    max_leaves=10,
)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(names, values | st.just(b"")), st.none() | st.just("given"))
def test_no_members_raise_anything_but_a_value_error(documents: dict[str, Any], name: str | None) -> None:
    members = {
        k: Member(5, document=None if v == b"" else json.dumps(v).encode()) for k, v in documents.items()
    }
    try:
        assert layout.read(members, HOST, name)
    except ValueError as error:
        assert "\n" not in str(error)  # noqa: PT017 -- either end is fine
