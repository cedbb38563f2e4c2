"""What was written becomes a spec with an id that is always a DNS label."""

import random
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mill.checks import NAME_LENGTH, is_label
from mill.errors import FieldError
from mill.model import (
    DEFAULT_CPU,
    DEFAULT_MEMORY_BYTES,
    Draft,
    Mount,
    MountType,
    Network,
    Publish,
    SpawnRequest,
)
from mill.tasks.drafts import SUFFIX_LENGTH, TRIES_PER_LENGTH, finish, label_of, lay_out, new_id
from tests.tasks.fakes import Suffixes

DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")

names = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,56}[a-z0-9])?", fullmatch=True)


@given(names, st.integers(), st.integers(0, 20))
@example("x" * NAME_LENGTH, 0, 20)
@example("x" * 50 + "-------x", 0, 20)
def test_an_id_is_a_dns_label_of_63_at_most_for_any_name_however_crowded(
    name: str, seed: int, crowd: int
) -> None:
    refused: list[str] = []

    def taken(made: str) -> bool:
        refused.append(made)
        return len(refused) <= crowd

    made = new_id(name, random.Random(seed), taken)
    for tried in refused:
        assert DNS_LABEL.fullmatch(tried), tried
    assert made == refused[-1]
    suffix = made.rpartition("-")[2]
    assert len(suffix) == SUFFIX_LENGTH + crowd // TRIES_PER_LENGTH
    assert name.startswith(made.rpartition("-")[0])


@given(st.text(max_size=300))
def test_any_repository_gives_a_name(repository: str) -> None:
    name = label_of(repository)
    assert is_label(name)
    assert len(name) <= NAME_LENGTH


@pytest.mark.parametrize(
    ("repository", "name"),
    [
        ("library/busybox", "busybox"),
        ("library/My_App", "my-app"),
        ("a/b/__x__", "x"),
        ("___", "task"),
        ("x" * 80, "x" * NAME_LENGTH),
        ("x" * 57 + "--y", "x" * 57),
    ],
)
def test_a_name_is_the_last_part_of_the_repository_made_label_safe(repository: str, name: str) -> None:
    assert label_of(repository) == name


def test_a_crowded_name_gets_a_longer_suffix() -> None:
    taken = {f"web-{n:04d}" for n in range(1, TRIES_PER_LENGTH + 1)}
    assert new_id("web", Suffixes(), taken.__contains__) == "web-00004"


def test_the_inline_part_wins_over_the_template_and_maps_are_merged_key_by_key() -> None:
    template = Draft(image="busybox", cpu=2.0, env={"A": "1", "B": "1"}, labels={"x": "1"})
    request = SpawnRequest(task="agent", cpu=1.0, env={"B": "2"})
    draft, name = lay_out(request, {"agent": template})
    assert name == "agent"
    assert draft == Draft(image="busybox", name="agent", cpu=1.0, env={"A": "1", "B": "2"}, labels={"x": "1"})


def test_what_a_newer_mill_says_in_a_template_goes_into_the_spec_unless_it_is_null() -> None:
    template = Draft(image="busybox", extra={"gpus": 1, "later": None})
    draft, _ = lay_out(SpawnRequest(task="web"), {"web": template})
    assert finish(draft, allow_mounts=()).extra == {"gpus": 1}


def test_the_name_is_the_requests_else_the_templates_else_its_key_else_the_images() -> None:
    templates = {"a": Draft(image="busybox", name="said"), "b": Draft(image="busybox")}
    assert lay_out(SpawnRequest(task="a", name="mine"), templates)[0].name == "mine"
    assert lay_out(SpawnRequest(task="a"), templates)[0].name == "said"
    assert lay_out(SpawnRequest(task="b"), templates)[0].name == "b"
    draft, template = lay_out(SpawnRequest(image="ghcr.io/me/my_app:v1"), templates)
    assert template is None
    assert finish(draft, allow_mounts=()).name == "my-app"


def test_an_unknown_template_is_named_with_those_that_are_known() -> None:
    with pytest.raises(FieldError, match="task: no template 'c'; known are: a, b") as error:
        lay_out(SpawnRequest(task="c"), {"b": Draft(), "a": Draft()})
    assert error.value.field == "task"
    with pytest.raises(FieldError, match="known are: none"):
        lay_out(SpawnRequest(task="c"), {})


@pytest.mark.parametrize("network", [Network.HOST, Network.NONE])
def test_ports_are_published_in_the_mesh_alone(network: Network) -> None:
    with pytest.raises(FieldError) as error:
        finish(Draft(image="busybox", network=network, publish=(Publish(80),)), allow_mounts=())
    assert error.value.field == "publish"
    assert finish(Draft(image="busybox", publish=(Publish(80),)), allow_mounts=()).publish == (Publish(80),)


def test_a_port_of_the_host_is_published_once() -> None:
    with pytest.raises(FieldError, match=r"publish\[1\]\.host: port 8000 is published twice"):
        Draft(publish=(Publish(80, 8000), Publish(81, 8000)))
    assert Draft(publish=(Publish(80), Publish(80)))


def test_defaults_are_the_designs() -> None:
    spec = finish(Draft(image="busybox"), allow_mounts=())
    assert (spec.cpu, spec.memory) == (DEFAULT_CPU, DEFAULT_MEMORY_BYTES) == (0.25, 256 * 1024**2)
    assert (spec.timeout, spec.pull_timeout, spec.grace, spec.port) == (3600.0, 600.0, 10.0, 8080)
    assert (spec.name, spec.network) == ("busybox", Network.MESH)


@pytest.mark.parametrize("image", ["UPPER/case", "a b", "busybox:", "http://busybox"])
def test_an_image_that_does_not_parse_is_a_field_error(image: str) -> None:
    with pytest.raises(FieldError) as error:
        finish(Draft(image=image), allow_mounts=())
    assert error.value.field == "image"


def test_an_image_must_be_named() -> None:
    with pytest.raises(FieldError, match="image: is missing"):
        finish(Draft(), allow_mounts=())


def bind(source: str) -> Draft:
    return Draft(image="busybox", mounts=(Mount("/tmp/t", MountType.TMPFS), Mount("/in", source=source)))


@pytest.mark.parametrize("source", ["/srv/data", "/srv/data/x", "/srv/data/x/y"])
def test_a_bind_below_an_allowed_path_may_be_mounted(source: str) -> None:
    mounts = finish(bind(source), allow_mounts=("/other", "/srv/data")).mounts
    assert mounts[1].source == source


@pytest.mark.parametrize("source", ["/", "/srv", "/srv/database", "/srv/data/../secret", "/srv/data/.."])
def test_a_bind_elsewhere_may_not(source: str) -> None:
    with pytest.raises(FieldError) as error:
        finish(bind(source), allow_mounts=("/srv/data",))
    assert error.value.field == "mounts[1].source"
    with pytest.raises(FieldError):
        finish(bind(source), allow_mounts=())


def test_the_root_allows_everything_below_it() -> None:
    assert finish(bind("/anything"), allow_mounts=("/",)).mounts[1].source == "/anything"
