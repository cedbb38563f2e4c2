"""Which registries an image is asked of, and how each is reached."""

import pytest

from mill.config import RegistryConfig
from mill.containerd.hosts import hosts_of
from mill.containerd.reference import parse
from tests.certificates import make_authority


def mirrors_of(image: str, *mirrors: str, name: str = "example.com") -> list[str]:
    found = hosts_of({name: RegistryConfig(mirrors=mirrors)}).mirrors(parse(image))
    return [ref.normalised for ref in found]


def test_a_mirror_has_the_image_under_the_same_repository_and_target() -> None:
    digest = "sha256:" + "0a" * 32
    assert mirrors_of(f"example.com/a/b:1@{digest}", "m.example.com:5000", "http://127.0.0.1:5001/") == [
        f"m.example.com:5000/a/b:1@{digest}",
        f"127.0.0.1:5001/a/b:1@{digest}",
    ]
    assert mirrors_of("other.example.com/a/b", "m.example.com") == []


@pytest.mark.parametrize(
    "name",
    ["docker.io", "index.docker.io", "registry-1.docker.io", "https://index.docker.io/v1/", "Docker.io"],
)
def test_docker_hub_is_meant_by_each_of_its_names(name: str) -> None:
    assert mirrors_of("busybox", "m.example.com", name=name) == ["m.example.com/library/busybox:latest"]


def test_nobody_is_asked_twice_and_a_registry_is_no_mirror_of_itself() -> None:
    mirrors = ("M.example.com", "https://m.example.com", "example.com", "b.example.com")
    assert mirrors_of("example.com/a", *mirrors) == ["m.example.com/a:latest", "b.example.com/a:latest"]


def test_plain_http_is_for_loopback_and_where_configured() -> None:
    hosts = hosts_of(
        {
            "plain.example.com": RegistryConfig(plain_http=True),
            "tls.example.com": RegistryConfig(),
            "127.0.0.1:2": RegistryConfig(plain_http=False),
            "127.0.0.1:3": RegistryConfig(username="me"),
        }
    )
    plain = ["localhost:5000", "127.0.0.1", "127.0.0.1:3", "plain.example.com", "PLAIN.example.com"]
    tls = ["tls.example.com", "other.example.com", "127.0.0.1:2"]
    assert [host for host in (*plain, *tls) if hosts.plain_http(host)] == plain


def test_a_mirror_s_url_says_whether_it_speaks_tls_and_keeps_the_rest_of_its_entry() -> None:
    hosts = hosts_of(
        {
            "example.com": RegistryConfig(
                mirrors=("http://a.example.com", "https://127.0.0.1:1", "127.0.0.1:2")
            ),
            "a.example.com": RegistryConfig(username="me"),
        }
    )
    assert [hosts.plain_http(host) for host in ("a.example.com", "127.0.0.1:1", "127.0.0.1:2")] == [
        True,
        False,
        True,
    ]
    assert hosts.entry("a.example.com").username == "me"


def test_an_authority_belongs_to_its_registry_and_means_tls(tmp_path_factory: pytest.TempPathFactory) -> None:
    ca = str(make_authority(tmp_path_factory.mktemp("certificates"), "own").ca)
    hosts = hosts_of({"docker.io": RegistryConfig(ca=ca), "127.0.0.1:1": RegistryConfig(ca=ca)})
    assert hosts.authorities() == {"registry-1.docker.io": ca, "127.0.0.1:1": ca}
    assert not hosts.plain_http("127.0.0.1:1")
