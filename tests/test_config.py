"""One configuration out of flags, environment and file; whatever is wrong is one line that says where.

Over 400 lines because every option has its examples here, good and bad.
"""

from collections.abc import Callable
from ipaddress import IPv4Network
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mill.config import (
    DEFAULT_DATA_DIR,
    DEFAULT_LISTEN,
    OPTIONS,
    Config,
    RegistryConfig,
    load,
    parse_templates,
)
from mill.errors import SetupError
from mill.model import Draft, Mount, Size
from mill.units import GIB, MIB, parse_address

Write = Callable[[str], Path]

EVERY_OPTION = {
    "data_dir": "/srv/mill",
    "name": "node-7",
    "containerd": "/run/c.sock",
    "runtime": "crun",
    "systemd_cgroup": "true",
    "listen": "0.0.0.0:80",
    "advertise": "192.0.2.1",
    "mesh_cidr": "10.7.0.0/16",
    "mesh_subnet": "10.7.4.0/22",
    "mesh_link": "auto",
    "mesh_port": "8472",
    "cpu": "2.5",
    "memory": "2G",
    "docker_config": "/root/config.json",
    "image_max_bytes": "20G",
    "allow_mounts": "/srv:/data",
    "log_max_bytes": "16M",
    "log_retention_secs": "2h",
    "rebuild_records": "true",
    "dns_listen": "192.0.2.1:53",
    "dns_upstream": "192.0.2.53, [2001:db8::53]:5353",
    "secret_file": "/run/secrets/mill",
    "tls_names": "Mill.Example.com,mill",
    "peer_port": "5501",
    "away_secs": "20m",
    "node_lost_secs": "30",
    "join": "10.0.0.1, Node-2.example.com:5501,[fd00::1]:5502,fd00::2",
}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str) -> Path:
        file = tmp_path / "milld.toml"
        file.write_text(text, encoding="utf-8")
        return file

    return write


def refused(
    flags: dict[str, object] | None = None, environ: dict[str, str] | None = None, file: Path | None = None
) -> str:
    """The one line that says what is wrong."""
    with pytest.raises(SetupError) as error:
        load(flags or {}, environ or {}, file)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_without_a_word_the_defaults_hold() -> None:
    config = load({}, {}, None)
    assert config == Config()
    assert (config.data_dir, config.listen, config.containerd) == (DEFAULT_DATA_DIR, DEFAULT_LISTEN, "auto")


def test_every_option_can_come_from_each_source_and_means_the_same(write: Write) -> None:
    assert EVERY_OPTION.keys() == OPTIONS.keys()
    by_flags = load(EVERY_OPTION, {}, None)
    by_environment = load({}, {f"MILL_{option.upper()}": text for option, text in EVERY_OPTION.items()}, None)
    lines = [f'{option.replace("_", "-")} = "{text}"' for option, text in EVERY_OPTION.items()]
    assert by_flags == by_environment == load({}, {}, write("\n".join(lines)))
    assert by_flags == Config(
        Path("/srv/mill"), "node-7", "/run/c.sock", "crun", True, "0.0.0.0:80", "192.0.2.1", 2.5, 2 * GIB,
        Path("/root/config.json"), 20 * GIB, ("/srv", "/data"), 16 * MIB, 7200.0,
        dns_listen="192.0.2.1:53", dns_upstream=(("192.0.2.53", 53), ("2001:db8::53", 5353)),
        rebuild_records=True, tls_names=("mill.example.com", "mill"),
        secret_file=Path("/run/secrets/mill"), peer_port=5501,
        away_secs=1200.0, node_lost_secs=30.0,
        join=(("10.0.0.1", 4401), ("node-2.example.com", 5501), ("fd00::1", 5502), ("fd00::2", 4401)),
        mesh_cidr=IPv4Network("10.7.0.0/16"), mesh_subnet=IPv4Network("10.7.4.0/22"), mesh_link="auto", mesh_port=8472,
    )  # fmt: skip


@pytest.mark.parametrize("option", sorted(OPTIONS.keys() - {"systemd_cgroup", "rebuild_records"}))
def test_flags_win_over_the_environment_and_that_over_the_file(option: str, write: Write) -> None:
    texts = {
        "cpu": "123",
        "memory": "123G",
        "image_max_bytes": "123G",
        "log_max_bytes": "123M",
        "log_retention_secs": "123",
        "allow_mounts": "/1:/2:/3",
        "advertise": "192.0.2.123",
        "listen": ":123",
        "dns_listen": ":123",
        "dns_upstream": "192.0.2.123",
        "mesh_cidr": "10.123.0.0/16",
        "mesh_subnet": "10.123.0.0/22",
        "mesh_link": "vxlan:routes:auto",
        "mesh_port": "123",
        "peer_port": "123",
        "away_secs": "123",
        "node_lost_secs": "5123",
    }
    text = texts.get(option, "/123" if option in {"data_dir", "docker_config", "containerd"} else "n123")
    first, second, third = (text.replace("123", digit) for digit in "123")
    if option in {"allow_mounts", "mesh_link"}:
        first, second, third = text.split(":")
    file = write(f'{option} = "{third}"')
    variable = {f"MILL_{option.upper()}": second}

    def got(flags: dict[str, object], environ: dict[str, str], file: Path | None) -> object:
        return getattr(load(flags, environ, file), option)

    def alone(value: str) -> object:
        return got({option: value}, {}, None)

    assert len({alone(first), alone(second), alone(third)}) == 3
    assert got({option: first}, variable, file) == alone(first)
    assert got({option: None}, variable, file) == alone(second)
    assert got({}, {f"MILL_{option.upper()}": ""}, file) == alone(third)


def test_a_switch_is_on_or_off_by_every_source(write: Write) -> None:
    on, off = write("systemd-cgroup = true"), {"MILL_SYSTEMD_CGROUP": "false"}
    assert load({}, {}, on).systemd_cgroup is True
    assert load({}, off, on).systemd_cgroup is False
    assert load({"systemd_cgroup": "yes"}, off, None).systemd_cgroup is True
    said = refused({"systemd_cgroup": "maybe"})
    assert said == "--systemd-cgroup: 'maybe' is neither true nor false"


def test_the_file_may_write_numbers_and_lists_as_toml_has_them(write: Write) -> None:
    config = load({}, {}, write("cpu = 2\nmemory = 1073741824\nallow_mounts = ['/srv/', '/data/../x']"))
    assert (config.cpu, config.memory, config.allow_mounts) == (2.0, GIB, ("/srv", "/x"))


def test_relative_paths_start_where_milld_was_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load({"data_dir": "state"}, {}, None).data_dir == tmp_path / "state"


def test_templates_and_registries_come_from_the_file(write: Write) -> None:
    config = load(
        {},
        {},
        write("""
        [task.coop-agent]
        image = "registry.example.com/coop:claude"
        cpu = 2
        memory = "4G"
        mounts = [{ target = "/data", source = "/srv" }]
        [task.coop-agent.env]
        MODE = "agent"
        [registry."localhost:5000"]
        username = "me"
        password = "secret"
        plain_http = true
        [registry."docker.io"]
        mirrors = ["mirror.example.com:5000", "http://127.0.0.1:5001", "https://[::1]/"]
    """),
    )
    assert config.templates == {
        "coop-agent": Draft(
            image="registry.example.com/coop:claude",
            cpu=2.0,
            memory=Size(4 * GIB),
            mounts=(Mount("/data", source="/srv"),),
            env={"MODE": "agent"},
        )
    }
    assert config.registries == {
        "localhost:5000": RegistryConfig("me", "secret", plain_http=True),
        "docker.io": RegistryConfig(
            mirrors=("mirror.example.com:5000", "http://127.0.0.1:5001", "https://[::1]/")
        ),
    }
    assert "'secret'" not in repr(config)


# -- mistakes -------------------------------------------------------------------------------------------------------

BAD = [
    ("data_dir", "a\0b"),
    ("name", "a_b"),
    ("name", "a" * 64),
    ("containerd", "relative.sock"),
    ("listen", "4400"),
    ("listen", "127.0.0.1:"),
    ("listen", "127.0.0.1:65536"),
    ("listen", "127.0.0.1:-1"),
    ("listen", "127.0.0.1:²"),
    ("listen", "example.com:80"),
    ("advertise", "example.com"),
    ("join", "a b"),
    ("join", "10.0.0.1:0"),
    ("join", "10.0.0.1:4401:x"),
    ("join", ","),
    ("peer_port", "0"),
    ("node_lost_secs", "14"),
    ("away_secs", "0"),
    ("cpu", "0"),
    ("cpu", "many"),
    ("cpu", "nan"),
    ("cpu", "inf"),
    ("memory", "2X"),
    ("memory", "1K"),
    ("memory", "-1"),
    ("image_max_bytes", "-1"),
    ("image_max_bytes", "much"),
    ("mesh_cidr", "10.99.0.0/33"),
    ("mesh_cidr", "10.99.0.1/16"),
    ("mesh_cidr", "10.99.0.0/29"),
    ("mesh_cidr", "0.0.0.0/0"),
    ("mesh_cidr", "127.0.0.0/8"),
    ("mesh_cidr", "fd00::/64"),
    ("mesh_subnet", "wide"),
    ("mesh_link", "tunnel"),
    ("mesh_port", "0"),
    ("allow_mounts", "relative"),
    ("allow_mounts", "/a::/b"),
]


@pytest.mark.parametrize(("option", "text"), BAD)
def test_a_bad_value_names_the_flag_or_the_variable(option: str, text: str) -> None:
    assert refused({option: text}).startswith(f"--{option.replace('_', '-')}: ")
    assert refused({}, {f"MILL_{option.upper()}": text}).startswith(f"MILL_{option.upper()}: ")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("cpu = 0", "1: cpu: 0 is not a number of cores"),
        ("cpu = true", "1: cpu: True is not a number of cores"),
        (f"cpu = 1{'0' * 400}", "1: cpu: 1"),
        ("\n\n# cpu\nmemory = 2.5", "4: memory: 2.5 is not a size"),
        ("name = 5", "1: name: 5 is not a text"),
        ('data-dir = ""', "1: data-dir: '' is not a text"),
        ('data_dir = "a\\u0000b"', "1: data_dir: 'a\\x00b' is not a text"),
        ("allow_mounts = ['/a', 5]", "1: allow_mounts: ['/a', 5] is not a list of absolute paths"),
        ("listen = '127.0.0.1:4400'\nfoo = 1", "2: unknown key 'foo'; known are: data_dir, name"),
        ("[tasks.web]\nimage = 'x'", "1: unknown key 'tasks'"),
        ("task = 5", "1: task: write [task.NAME] tables"),
        ("[task]\nweb = 5", "2: task.web: must be a JSON object, not a number"),
        ("[task.A_b]\nimage = 'x'", "1: task.A_b: the name is no DNS label"),
        ('[task."a\\nb"]', "1: task.a?b: the name is no DNS label"),
        ("[task.web]\nimage = 'x'\ncpus = 2", "3: task.web.cpus: unknown field"),
        ("[task.web]\nimage = 5", "2: task.web.image: must be a string, not a number"),
        ("[task.web]\ntask = 'other'", "2: task.web.task: unknown field"),
        ("[task.web]\nimage = 2026-01-01", "2: task.web.image: must be a string, not a date or time"),
        ("[task.a]\ncpu = 1\n[task.b]\ncpu = 0", "4: task.b.cpu: 0.0 is not a number of cores"),
        (
            "[task.web]\nimage = 'x'\n[task.web.env]\nA = 1",
            "4: task.web.env.A: must be a string, not a number",
        ),
        (
            "[task.web]\n[[task.web.mounts]]\ntarget = '/0'\nsource = '/x'\n[[task.web.mounts]]\ntarget = 0",
            "3: task.web.mounts[1].target: must be a string, not a number",
        ),
        ('[peer.b]\naddress = "10.0.0.2"', "1: peer.b.subnet: is missing"),
        ('[peer.b]\naddress = "b"\nsubnet = "10.99.4.0/22"', "2: peer.b.address: 'b' is not an IPv4 address"),
        (
            '[peer.b]\naddress = "10.0.0.2"\nsubnet = "10.99.4.1/22"',
            "3: peer.b.subnet: '10.99.4.1/22' is no IPv4 network",
        ),
        ('[registry."host:5000"]\nuser = "me"', "2: registry.host:5000.user: unknown field"),
        (
            '[registry."host:5000"]\nplain_http = "yes"',
            "2: registry.host:5000.plain_http: must be true or false",
        ),
        (
            '[registry."host"]\nmirror = ["x"]',
            "2: registry.host.mirror: unknown field; known are: ca, mirrors, password, plain_http, username",
        ),
        ('[registry."host"]\nmirrors = "x"', "2: registry.host.mirrors: must be a list, not a string"),
        (
            '[registry."host"]\nmirrors = [\n"x",\n5]',
            "2: registry.host.mirrors[1]: must be a string, not a number",
        ),
        *(
            (
                f'[registry."host"]\nmirrors = ["x", "{mirror}"]',
                "2: registry.host.mirrors[1]: is no mirror: write HOST",
            )
            for mirror in (
                "",
                "ftp://x",
                "https://x/v2/proxy",
                "x/y",
                "x y",
                "x:99999",
                "https://",
                "me:pw@x",
            )
        ),
        ('[registry."host"]\nca = 5', "2: registry.host.ca: must be a string, not a number"),
        (
            '[registry."host"]\n\nca = "/no/such.pem"',
            "3: registry.host.ca: cannot read '/no/such.pem': No such file",
        ),
        ('[registry."host"]\nca = "/etc"', "2: registry.host.ca: cannot read '/etc': Is a directory"),
        ('[registry."host"]\nca = ""', "2: registry.host.ca: cannot read ''"),
        ('[registry."host"]\nca = "a\\u0000b"', "2: registry.host.ca: cannot read 'a\\x00b'"),
        (
            '[registry."host"]\nca = "/etc/passwd"',
            "2: registry.host.ca: /etc/passwd holds no certificate in PEM form",
        ),
        (
            '[registry."host"]\nplain_http = true\nca = "x"',
            "3: registry.host.ca: is for TLS, and plain_http says",
        ),
    ],
)
def test_a_mistake_in_the_file_is_told_with_its_line(text: str, line: str, write: Write) -> None:
    file = write(text)
    assert refused(file=file).startswith(f"{file}:{line}")


def test_a_password_in_a_mirror_is_not_repeated(write: Write) -> None:
    assert "s3cret" not in refused(file=write('[registry.host]\nmirrors = ["https://me:s3cret@mirror"]'))


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("cpu = ", "1"),
        ("\ncpu 2", "2:5"),
        ("a = 1\na = 2", "2"),
        ("a = 'x", "1"),
        ("[task.web", "1"),
        ("\x00", "1:1"),
    ],
)
def test_what_is_not_toml_is_told_with_its_line(text: str, where: str, write: Write) -> None:
    file = write(text)
    said = refused(file=file)
    assert said.startswith(f"{file}:{where}")
    assert "is not TOML: " in said


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    assert refused(file=tmp_path / "none") == f"cannot read {tmp_path}/none: No such file or directory"
    assert refused(file=tmp_path) == f"cannot read {tmp_path}: Is a directory"
    (tmp_path / "latin1").write_bytes(b"name = '\xff'")
    assert refused(file=tmp_path / "latin1") == f"{tmp_path}/latin1: is not UTF-8 text"


def test_a_broken_file_is_told_even_if_flags_say_everything(write: Write) -> None:
    assert "unknown key" in refused(dict(EVERY_OPTION), file=write("foo = 1"))


@given(st.text(), st.sampled_from(sorted(OPTIONS)))
def test_any_text_for_any_option_is_a_value_or_one_line(text: str, option: str) -> None:
    try:
        config = load({option: text}, {}, None)
    except SetupError as error:
        assert str(error).startswith("--")  # noqa: PT017 -- it need not be raised
        assert len(str(error).splitlines()) == 1  # noqa: PT017 -- as above
    else:
        assert attrs.evolve(config, **{option: getattr(Config(), option)}) == Config()


# -- templates apart from a configuration ---------------------------------------------------------------------------


def test_a_file_of_templates_holds_nothing_else() -> None:
    assert parse_templates("[task.web]\nimage = 'x'", "f") == {"web": Draft(image="x")}
    for text, said in (
        ("cpu = 2\n[task.web]", "f:1: unknown key 'cpu'; only [task.NAME] tables belong here"),
        ("", "f: holds no [task.NAME] table"),
    ):
        with pytest.raises(SetupError) as error:
            parse_templates(text, "f")
        assert str(error.value) == said


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:4400", ("127.0.0.1", 4400)),
        ("[::1]:4400", ("::1", 4400)),
        (":4400", ("0.0.0.0", 4400)),
        ("localhost:0", ("127.0.0.1", 0)),
    ],
)
def test_an_address_is_read(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address


def test_a_secret_comes_by_the_environment_and_is_not_shown() -> None:
    """As a flag everybody on the host could read it."""
    config = load({}, {"MILL_SECRET": "mill1-whispered"}, None)
    assert config.secret == "mill1-whispered"
    assert "whispered" not in repr(config)
    assert "secret" not in OPTIONS
