"""What people may write as an image, after Docker's rules."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mill.containerd.reference import Reference, is_loopback, parse

DIGEST = "sha256:" + "0a" * 32

NORMALISED = {
    "busybox": "docker.io/library/busybox:latest",
    "busybox:1.36": "docker.io/library/busybox:1.36",
    "me/app": "docker.io/me/app:latest",
    "docker.io/busybox": "docker.io/library/busybox:latest",
    "index.docker.io/library/busybox": "docker.io/library/busybox:latest",
    "registry-1.docker.io/busybox": "docker.io/library/busybox:latest",
    "localhost/app": "localhost/app:latest",
    "localhost:5000/app:v1": "localhost:5000/app:v1",
    "localhost:5000": "docker.io/library/localhost:5000",
    "registry.example.com/coop:claude": "registry.example.com/coop:claude",
    "Registry.Example.com/coop": "registry.example.com/coop:latest",
    "127.0.0.1:5000/a/b/c:T_ag.1-x": "127.0.0.1:5000/a/b/c:T_ag.1-x",
    "[::1]:5000/app": "[::1]:5000/app:latest",
    f"busybox@{DIGEST}": f"docker.io/library/busybox@{DIGEST}",
    f"quay.io/a/b:v3@{DIGEST}": f"quay.io/a/b:v3@{DIGEST}",
    "a__b/c--d/e.f_g": "docker.io/a__b/c--d/e.f_g:latest",
}

REFUSED = {
    "": "empty",
    " busybox": "white space",
    "bu sybox": "white space",
    "Busybox": "lower case",
    "example.com/App": "lower case",
    "busybox:": "tag",
    "busybox:-x": "tag",
    "busybox:" + "t" * 129: "tag",
    "busybox@sha256:abc": "digest",
    "busybox@sha512:" + "0" * 128: "digest",
    "busybox@" + DIGEST.upper(): "digest",
    "0a" * 32: "bare digest",
    "/busybox": "not an image",
    "busybox/": "not an image",
    "a//b": "not an image",
    "a/-b": "not an image",
    "a___b": "not an image",
    "https://example.com/app": "leave https:// out",
    "-bad.example.com/app": "host",
    "example.com:port/app": "host",
    "example.com:99999/app": "host",
    "example.com/" + "a" * 250: "too long",
    "../../etc/passwd": "host",
    "example.com/../x": "not an image",
    "busybox\n": "white space",
    "büsybox": "not an image",
}


@pytest.mark.parametrize(("text", "normalised"), NORMALISED.items())
def test_a_reference_has_one_normal_spelling(text: str, normalised: str) -> None:
    assert parse(text).normalised == normalised


@pytest.mark.parametrize(("text", "why"), REFUSED.items())
def test_a_bad_reference_is_refused_with_a_reason_of_one_short_line(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as caught:
        parse(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_docker_hub_is_asked_under_its_registrys_name() -> None:
    assert parse("busybox").pull_host == "registry-1.docker.io"
    assert parse("quay.io/a/b").pull_host == "quay.io"


def test_a_digest_decides_over_a_tag() -> None:
    assert parse(f"busybox:1@{DIGEST}").target == DIGEST
    assert parse("busybox:1").target == "1"


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:5000", "127.0.0.1", "127.9.9.9:80", "[::1]:5000", "[::1]", "::1"]
)
def test_loopback_is_known_by_name(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["example.com", "10.0.0.1:5000", "localhost.example.com", "[2001:db8::1]:80", "127.example.com"]
)
def test_other_hosts_are_not_loopback(host: str) -> None:
    assert not is_loopback(host)


part = st.from_regex(r"[a-z0-9]{1,8}(?:[._-][a-z0-9]{1,4})?", fullmatch=True)
hosts = st.one_of(
    st.from_regex(r"[a-z0-9]{1,8}\.[a-z]{2,3}(?::[0-9]{1,4})?", fullmatch=True),
    st.sampled_from(["localhost", "127.0.0.1:5000", "[::1]:5000", "docker.io"]),
)
tags = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True)
digests = st.from_regex(r"sha256:[0-9a-f]{64}", fullmatch=True)


@given(hosts, st.lists(part, min_size=2, max_size=4), st.none() | tags, st.none() | digests)
def test_what_was_parsed_parses_again_to_the_same(
    host: str, parts: list[str], tag: str | None, digest: str | None
) -> None:
    if tag is None and digest is None:
        tag = "latest"
    reference = Reference(host, "/".join(parts), tag, digest)
    assert parse(reference.normalised) == reference


@given(st.text(max_size=60))
def test_any_text_parses_or_is_refused_but_nothing_else_happens(text: str) -> None:
    try:
        reference = parse(text)
    except ValueError:
        return
    assert parse(reference.normalised) == reference
