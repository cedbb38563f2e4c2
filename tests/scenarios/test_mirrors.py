"""Mirrors, and registries with certificates of their own, on a real node: who is asked, who serves, who learns whose password."""

import json
import ssl
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import attrs
import pytest

from tests.certificates import Authority, make_authority
from tests.node import Node, free_port
from tests.scenarios.bad_registry import Answer, Asked, Server, serving
from tests.scenarios.market import end_of, spawn
from tests.scenarios.moods import (
    HTML,
    PAGE,
    Mood,
    Shop,
    always,
    foreign,
    garbled,
    header,
    honest,
    on_layer,
    open_shop,
)


@attrs.frozen
class Case:
    """`mirrors` and `home` are moods, or what is wrong with the way there: ``down``, ``tls`` (of an
    authority that is known for its sake), ``tls-elsewhere`` (and its blobs are at another address), ``strange`` (unknown)."""

    mirrors: tuple[Mood | str, ...]
    home: Mood | str = honest
    asks_home: bool = True
    detail: str | None = None
    told: str = ""


CASES = {
    "has-it": Case((honest,), asks_home=False),
    "none": Case(()),
    "down": Case(("down",)),
    "lacks-it": Case((always(404),)),
    "lets-nobody-in": Case((always(403),)),
    "broken": Case((always(500),)),
    "busy": Case((always(429, b"", {"Retry-After": "3600"}),)),
    "shows-a-page": Case((always(200, PAGE, HTML),)),
    "lacks-a-layer": Case((on_layer(always(404)),)),
    "garbles-a-layer": Case((on_layer(garbled),)),
    "cuts-a-layer": Case((on_layer(lambda shop, asked, _: shop.cut(asked, 1000)),)),
    "is-for-others": Case((foreign,)),
    "second-has-it": Case(("down", honest), asks_home=False),
    "all-fail": Case(("down", always(404)), always(403), detail="auth", told="(network), 127.0.0.2:"),
    "only-home-fails": Case((always(404),), always(404), detail="not_found", told="its mirrors failed before it: 127.0.0.2:"),
    "by-tls": Case(("tls",), asks_home=False),
    "by-strange-tls": Case(("strange",)),
    "home-by-tls": Case((), "tls"),
    "home-sends-elsewhere-by-tls": Case((), "tls-elsewhere"),
    "home-by-strange-tls": Case((), "strange", detail="network", told="local issuer certificate): set ca for its registry"),
    "home-by-no-tls": Case((), "no-tls", detail="network", told="does not speak TLS"),
}  # fmt: skip


@attrs.define
class Place:
    """One registry: a mirror or the home of a case's image, with a password that nobody else may learn."""

    server: Server
    password: str
    entry: list[str]
    url: str


@attrs.define
class Stage:
    """Everything that listens, by case: home last."""

    shops: dict[str, Shop]
    places: dict[str, list[Place]]
    known: Authority
    strange: Authority
    stack: ExitStack
    store: Server

    def elsewhere(self, shop: Shop, asked: Asked, _: int) -> Answer:
        """To the one blob store of the stage, which shows a certificate of the same authority."""
        if "/blobs/" not in asked.path:
            return shop.honest(asked)
        digest = asked.path.rpartition("/")[2]
        return Answer(307, b"", {"Location": f"https://{self.store.host}/{shop.name}/{digest}"})

    def build(self, name: str, what: Mood | str, *, mirror: bool) -> Place:
        address = "127.0.0.2" if mirror else "127.0.0.1"
        password = f"hush-{name}-{len(self.places[name])}"
        if what == "down":
            host = f"{address}:{free_port()}"
            return Place(Server(host), password, [], host)
        known = str(what).startswith("tls")
        signed = self.known if known else self.strange if what == "strange" else None
        tls: ssl.SSLContext | None = signed.server(address) if signed else None
        mood = self.elsewhere if what == "tls-elsewhere" else honest if isinstance(what, str) else what
        wanted = header("me", password)

        def answer(asked: Asked) -> Answer:
            if asked.headers.get("authorization") != wanted:
                return Answer(401, b"", {"WWW-Authenticate": 'Basic realm="x"'})
            return mood(self.shops[name], asked, 0)

        server = self.stack.enter_context(serving(answer, address=address, tls=tls))
        entry = ['username = "me"', f'password = "{password}"']
        if known:
            entry.append(f'ca = "{self.known.ca}"')
        elif isinstance(what, str):
            entry.append("plain_http = false")
        return Place(server, password, entry, f"https://{server.host}" if tls else server.host)

    def config(self) -> str:
        lines = []
        for *mirrors, home in self.places.values():
            urls = json.dumps([mirror.url for mirror in mirrors])
            for place in (*mirrors, home):
                lines += [f'[registry."{place.server.host}"]', *place.entry]
            lines += [f"mirrors = {urls}"] if mirrors else []
        return "\n".join(lines)


@contextmanager
def staged(folder: Path) -> Iterator[Stage]:
    with ExitStack() as stack:
        known, strange = make_authority(folder, "known"), make_authority(folder, "strange")
        shops = {name: open_shop(name) for name in CASES}

        def keep(asked: Asked) -> Answer:
            return shops[asked.path.split("/")[1]].honest(asked)

        store = stack.enter_context(serving(keep, address="127.0.0.3", tls=known.server("127.0.0.3")))
        stage = Stage(shops, {name: [] for name in CASES}, known, strange, stack, store)
        for name, case in CASES.items():
            for mirror in case.mirrors:
                stage.places[name].append(stage.build(name, mirror, mirror=True))
            stage.places[name].append(stage.build(name, case.home, mirror=False))
        yield stage


Opened = tuple[Stage, Node, dict[str, str]]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    """All cases at once, each pulled by a task of one node."""
    with staged(tmp_path_factory.mktemp("certificates")) as stage:
        node = Node(name="mirrored", config=stage.config())
        try:
            node.start()
            ids = {
                name: spawn(node, f"{places[-1].server.host}/{name}/app:1")
                for name, places in stage.places.items()
            }
            yield stage, node, ids
            node.stop()
        finally:
            node.destroy()


@pytest.mark.parametrize("name", CASES)
def test_the_first_that_has_the_image_whole_gives_it(opened: Opened, name: str) -> None:
    stage, node, ids = opened
    case, record = CASES[name], end_of(node, ids[name])
    message, home = str(record["message"]), stage.places[name][-1].server
    if case.detail is None:
        assert (record["reason"], record["exit_code"]) == ("exit", 0), message
        assert bool(home.asked) == case.asks_home
    else:
        assert (record["reason"], record["detail"]) == ("pull_error", case.detail), message
        assert case.told in message
        assert f"cannot pull {home.host}/{name}/app:1: " in message
        assert "\n" not in message


def test_a_password_goes_to_its_own_registry_only_and_into_no_log_and_no_record(opened: Opened) -> None:
    stage, node, ids = opened
    for task_id in ids.values():
        end_of(node, task_id)
    assert stage.store.asked
    assert all("authorization" not in asked.headers for asked in stage.store.asked)
    places = [place for places in stage.places.values() for place in places]
    learnt = {place.password: "\n".join(asked.text() for asked in place.server.asked) for place in places}
    told = [password for password, text in learnt.items() if header("me", password) in text]
    assert len(told) >= len(CASES)
    for password, text in learnt.items():
        others = [other for other in learnt if other != password]
        assert not any(other in text or header("me", other).split()[1] in text for other in others)
    known = node.log.read_text() + json.dumps(node.records())
    assert "mirror failed, asking the next" in known
    assert [p for p in learnt if p in known or header("me", p).split()[1] in known] == []


@pytest.fixture
def small_disk() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="mill-disk-", dir="/tmp"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)
    folder.rmdir()


def test_a_full_disk_is_told_at_once_since_no_other_registry_can_help(small_disk: Path) -> None:
    """Only containerd's state is on the small disk: what milld has to write down finds room."""
    shop = open_shop("large", size_bytes=60 * 2**20)
    with (
        serving(shop.honest, address="127.0.0.2") as mirror,
        serving(shop.honest) as home,
    ):
        mirrors = f'[registry."{home.host}"]\nmirrors = ["{mirror.host}"]\n'
        node = Node(name="cramped", config=f"image-max-bytes = 0\n{mirrors}")  # no budget says so beforehand
        node.data_dir.mkdir()
        (node.data_dir / "containerd").symlink_to(small_disk)
        try:
            node.start()
            record = end_of(node, spawn(node, f"{home.host}/large/app:1"))
            assert (record["reason"], record["detail"]) == ("pull_error", "disk"), record
            assert "containerd's disk is full; free space or remove images" in str(record["message"])
            assert mirror.asked
            assert home.asked == []
            node.stop()
        finally:
            node.destroy()
