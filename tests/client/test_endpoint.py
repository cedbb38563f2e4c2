"""Where the client finds milld and its token, and what it says when it finds none."""

import json
import os
from pathlib import Path

import pytest

from mill.client.endpoint import DEFAULT_URL, locate, parse_address
from mill.errors import FieldError


def node_files(
    path: Path, address: str = "http://127.0.0.1:5555", token: str = "from-file"
) -> dict[str, str]:
    (path / "api.json").write_text(json.dumps({"address": address}))
    (path / "admin.token").write_text(f"{token}\n")
    return {"MILL_DATA_DIR": str(path)}


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("127.0.0.1:4401", "http://127.0.0.1:4401"),
        ("node-3", "https://node-3:4400"),
        ("10.1.2.3:1", "https://10.1.2.3:1"),
        ("[2001:db8::1]", "https://[2001:db8::1]:4400"),
        ("localhost", "http://localhost:4400"),
        ("http://node-3", "http://node-3"),
        ("https://mill.example.com/", "https://mill.example.com"),
        ("http://gate/mill/", "http://gate/mill"),
        ("[::1]:4400", "http://[::1]:4400"),
        (" 127.0.0.1:1 ", "http://127.0.0.1:1"),
    ],
)
def test_an_address_may_be_written_short(text: str, url: str) -> None:
    assert parse_address("address", text) == url


@pytest.mark.parametrize(
    "text", ["ftp://x", "http://", "a b", "http://x:port", "x:99999", "http://u:p@x", "http://x?a=b"]
)
def test_what_is_no_address_is_refused_with_its_source(text: str) -> None:
    with pytest.raises(FieldError) as caught:
        locate(None, None, {"MILL_ADDRESS": text})
    assert caught.value.field == "MILL_ADDRESS"


def test_on_the_node_both_are_found_without_being_set(tmp_path: Path) -> None:
    endpoint = locate(None, None, node_files(tmp_path))
    assert (endpoint.url, endpoint.token) == ("http://127.0.0.1:5555", "from-file")


def test_arguments_win_over_the_environment_and_that_over_files(tmp_path: Path) -> None:
    environ = {**node_files(tmp_path), "MILL_ADDRESS": "127.0.0.1:6666", "MILL_TOKEN": "from-env"}
    assert locate(None, None, environ).token == "from-env"
    assert locate(None, None, environ).url == "http://127.0.0.1:6666"
    given = locate("127.0.0.1:7777", "given", environ)
    assert (given.url, given.token) == ("http://127.0.0.1:7777", "given")


def test_without_anything_it_is_the_default_port_of_this_machine(tmp_path: Path) -> None:
    endpoint = locate(None, None, {"MILL_DATA_DIR": str(tmp_path)})
    assert (endpoint.url, endpoint.token) == (DEFAULT_URL, None)
    assert f"cannot read {tmp_path}/admin.token (no such file or directory)" in endpoint.hint


def test_a_token_file_that_may_not_be_read_is_told(tmp_path: Path) -> None:
    environ = node_files(tmp_path)
    (tmp_path / "admin.token").unlink()
    (tmp_path / "admin.token").mkdir()  # root may read every file, but no directory as one
    assert "admin.token (is a directory)" in locate(None, None, environ).hint


def test_the_node_s_own_token_never_goes_to_another_machine(tmp_path: Path) -> None:
    environ = node_files(tmp_path)
    assert locate("10.1.2.3", None, environ).token is None
    assert locate("localhost:4400", None, environ).token == "from-file"
    assert locate("127.1.2.3:4400", None, environ).token == "from-file"


@pytest.mark.parametrize("content", ["", "not json", "[]", '{"address": 5}', '{"address": "ftp://x"}', "{}"])
def test_a_broken_api_json_leaves_the_default(tmp_path: Path, content: str) -> None:
    (tmp_path / "api.json").write_text(content)
    assert locate(None, None, {"MILL_DATA_DIR": str(tmp_path)}).url == DEFAULT_URL


def test_a_token_that_would_break_the_header_is_refused() -> None:
    for token in ("two words", "line\nbreak", "schlüssel"):
        with pytest.raises(FieldError, match="MILL_TOKEN"):
            locate(None, token, {})


def test_a_token_is_not_shown() -> None:
    assert "secret" not in repr(locate("x", "secret", dict(os.environ)))


# -- whose certificates ---------------------------------------------------------------------------------------------


def test_on_a_node_the_authority_is_found_and_is_the_only_one_for_its_own_address(tmp_path: Path) -> None:
    environ = node_files(tmp_path, "https://10.1.2.3:4400")
    (tmp_path / "ca.pem").touch()
    own = locate(None, None, environ)
    assert (own.ca, own.system_ca, own.local, own.token) == (tmp_path / "ca.pem", False, True, "from-file")
    other = locate("10.1.2.4", None, environ)
    assert (other.ca, other.system_ca, other.local, other.token) == (tmp_path / "ca.pem", True, False, None)


def test_what_is_said_is_the_only_authority(tmp_path: Path) -> None:
    environ = {**node_files(tmp_path), "MILL_CA": "/else/ca.pem"}
    (tmp_path / "ca.pem").touch()
    by_environ = locate("10.1.2.4", None, environ)
    assert (by_environ.ca, by_environ.system_ca) == (Path("/else/ca.pem"), False)
    assert locate("10.1.2.4", None, environ, "given.pem").ca == Path("given.pem")


def test_elsewhere_the_system_s_authorities_hold(tmp_path: Path) -> None:
    endpoint = locate("mill.example.com", "t", {"MILL_DATA_DIR": str(tmp_path)})
    assert (endpoint.ca, endpoint.system_ca) == (None, True)
