# ruff: noqa: ASYNC240 -- small files in a temporary folder
"""Whose name and password go to which registry."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mill.config import RegistryConfig
from mill.containerd.challenge import Challenge, best, parse
from mill.containerd.credentials import Credential, Credentials, from_auths, parse_helper_answer

SECRET = "s3cret:with colon"


def encoded(name: str = "me", password: str = SECRET) -> str:
    return base64.b64encode(f"{name}:{password}".encode()).decode()


def written(folder: Path, config: Any) -> Path:
    path = folder / "config.json"
    path.write_text(config if isinstance(config, str) else json.dumps(config))
    return path


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The program ``docker-credential-mine``, for a test to write."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    path = tmp_path / "docker-credential-mine"
    path.touch(0o755)
    return path


async def test_mills_own_configuration_comes_first(tmp_path: Path) -> None:
    config = written(tmp_path, {"auths": {"example.com": {"auth": encoded("docker")}}})
    credentials = Credentials({"example.com": RegistryConfig("mill", "pw")}, config)
    assert await credentials.find("example.com") == Credential("mill", "pw")


@pytest.mark.parametrize(
    "key", ["example.com:5000", "https://example.com:5000", "http://example.com:5000/v2/", "Example.com:5000"]
)
async def test_dockers_auths_are_found_however_the_host_is_written(tmp_path: Path, key: str) -> None:
    config = written(tmp_path, {"auths": {"other.com": {"auth": encoded("no")}, key: {"auth": encoded()}}})
    assert await Credentials({}, config).find("example.com:5000") == Credential("me", SECRET)
    assert await Credentials({}, config).find("example.com") is None


async def test_docker_hub_is_known_by_its_old_address(tmp_path: Path) -> None:
    config = written(tmp_path, {"auths": {"https://index.docker.io/v1/": {"auth": encoded()}}})
    assert await Credentials({}, config).find("registry-1.docker.io") == Credential("me", SECRET)
    mill = Credentials({"docker.io": RegistryConfig("mill", "pw")}, config)
    assert await mill.find("registry-1.docker.io") == Credential("mill", "pw")


async def test_a_helper_is_asked_before_auths_are_read(tmp_path: Path, helper: Path) -> None:
    helper.write_text(
        '#!/bin/sh\nread server; echo "{\\"Username\\":\\"$1-$server\\",\\"Secret\\":\\"pw\\"}"\n'
    )
    both = {"credsStore": "mine", "auths": {"example.com": {"auth": encoded()}}}
    assert await Credentials({}, written(tmp_path, both)).find("example.com") == Credential(
        "get-example.com", "pw"
    )
    own = {"credHelpers": {"example.com": "mine"}, "credsStore": "missing"}
    assert await Credentials({}, written(tmp_path, own)).find("example.com") == Credential(
        "get-example.com", "pw"
    )


@pytest.mark.parametrize(
    "script",
    [
        "#!/bin/sh\nexit 1\n",
        "#!/bin/sh\necho nonsense\n",
        "#!/bin/sh\nexec sleep 60\n",
        "#!/no/such/interpreter\n",
    ],
)
async def test_a_helper_that_fails_or_hangs_means_auths_then_anonymous(
    tmp_path: Path, helper: Path, script: str
) -> None:
    helper.write_text(script)
    with_auths = written(tmp_path, {"credsStore": "mine", "auths": {"example.com": {"auth": encoded()}}})
    assert await Credentials({}, with_auths, helper_timeout_s=0.3).find("example.com") == Credential(
        "me", SECRET
    )
    without = written(tmp_path, {"credsStore": "mine"})
    assert await Credentials({}, without, helper_timeout_s=0.3).find("example.com") is None


async def test_a_helper_with_a_path_for_a_name_is_not_run(tmp_path: Path, helper: Path) -> None:
    ran = tmp_path / "ran"
    helper.write_text(f"#!/bin/sh\ntouch {ran}\n")
    config = written(tmp_path, {"credsStore": "x/../../" + str(helper)})
    assert await Credentials({}, config).find("example.com") is None
    assert not ran.exists()


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"auths": 5}', '{"auths": {"example.com": 5}}'])
async def test_a_broken_docker_config_means_anonymous(tmp_path: Path, text: str) -> None:
    assert await Credentials({}, written(tmp_path, text)).find("example.com") is None


async def test_a_missing_docker_config_means_anonymous(tmp_path: Path) -> None:
    assert await Credentials({}, tmp_path / "none.json").find("example.com") is None


def test_identity_tokens_come_from_files_and_helpers() -> None:
    auths = {"auths": {"example.com": {"auth": encoded("me", ""), "identitytoken": "tok"}}}
    assert from_auths(auths, ("example.com",)) == Credential("me", identity_token="tok")
    assert parse_helper_answer(b'{"Username":"<token>","Secret":"tok"}') == Credential(identity_token="tok")
    assert parse_helper_answer(b'{"Username":"me"}') is None


@pytest.mark.parametrize(
    "entry", [{"auth": "!!!"}, {"auth": base64.b64encode(b"\xff\xfe").decode()}, {}, {"auth": 5}]
)
def test_an_entry_that_says_nothing_is_no_credential(entry: dict[str, Any]) -> None:
    assert from_auths({"auths": {"example.com": entry}}, ("example.com",)) is None


def test_secrets_are_not_shown() -> None:
    shown = repr(
        [Credential("me", SECRET, SECRET), Credentials({"example.com": RegistryConfig("me", SECRET)})]
    )
    assert "me" in shown
    assert SECRET not in shown


# -- WWW-Authenticate -----------------------------------------------------------------------------------------------


def test_challenges_are_read_as_registries_write_them() -> None:
    hub = 'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push"'
    assert parse([hub]) == [
        Challenge(
            "bearer",
            {
                "realm": "https://auth.docker.io/token",
                "service": "registry.docker.io",
                "scope": "repository:a/b:pull,push",
            },
        )
    ]
    assert parse(['BASIC Realm="a \\"b\\"", Bearer realm=x']) == [
        Challenge("basic", {"realm": 'a "b"'}),
        Challenge("bearer", {"realm": "x"}),
    ]


def test_a_token_is_preferred_and_the_unknown_left_out() -> None:
    assert best(parse(['Basic realm="x"', 'Bearer realm="y"'])) == Challenge("bearer", {"realm": "y"})
    assert best(parse(["Basic"])) == Challenge("basic", {})
    assert best(parse(["Negotiate", "Bearer"])) is None


@given(st.lists(st.text(max_size=40), max_size=3))
def test_any_header_can_be_read(headers: list[str]) -> None:
    assert all(challenge.scheme for challenge in parse(headers))


@given(
    st.dictionaries(
        st.from_regex(r"[a-z]{1,6}", fullmatch=True), st.text(max_size=10), min_size=1, max_size=3
    )
)
def test_quoted_values_come_back_as_they_were(params: dict[str, str]) -> None:
    def quoted(value: str) -> str:
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'

    assert parse(["Bearer " + ", ".join(f"{k}={quoted(v)}" for k, v in params.items())]) == [
        Challenge("bearer", params)
    ]
