"""Which images go: the longest unused first, no more than needed, none that is held, none in vain."""

from hypothesis import given
from hypothesis import strategies as st

from mill.containerd.eviction import Kept, Plan, plan, size_of

NOBODY = frozenset[str]()


def image(name: str, used: float, **blobs: int) -> Kept:
    return Kept(name, used, {("blob", digest): size for digest, size in blobs.items()})


def test_what_fits_stays() -> None:
    images = [image("a", 1, x=10), image("b", 2, y=10)]
    assert plan(images, NOBODY, [], 20) == Plan((), 20)


def test_the_longest_unused_go_first_and_no_more_than_needed() -> None:
    images = [image("new", 3, x=10), image("old", 1, y=10), image("middle", 2, z=10)]
    assert plan(images, NOBODY, [], 29) == Plan(("old",), 20)
    assert plan(images, NOBODY, [], 19) == Plan(("old", "middle"), 10)
    assert plan(images, NOBODY, [{("blob", "more"): 5}], 30) == Plan(("old",), 25)


def test_held_ones_stay_even_when_it_does_not_suffice() -> None:
    images = [image("old", 1, x=10), image("new", 2, y=10)]
    assert plan(images, frozenset({"old"}), [], 10) == Plan(("new",), 10)
    assert plan(images, frozenset({"old"}), [], 5) == Plan(("new",), 10)


def test_a_part_that_several_share_counts_once_and_goes_with_the_last_of_them() -> None:
    images = [image("a", 1, base=10, x=1), image("b", 2, base=10, y=1), image("c", 3, z=5)]
    assert size_of(one.parts for one in images) == 17
    assert plan(images, NOBODY, [], 16) == Plan(("a",), 16)
    assert plan(images, NOBODY, [], 6) == Plan(("a", "b"), 5)


def test_an_image_whose_going_frees_nothing_stays() -> None:
    images = [image("alias", 1, base=10), image("old", 2, x=10), image("used", 3, base=10)]
    assert plan(images, frozenset({"used"}), [], 10) == Plan(("old",), 10)
    pulled = [{("blob", "base"): 10}]
    assert plan([image("alias", 1, base=10)], NOBODY, pulled, 5) == Plan((), 10)


def test_a_blob_and_a_snapshot_of_one_digest_are_two_things() -> None:
    """As the only layer of an image has them, when it is not compressed."""
    assert size_of([{("blob", "x"): 1, ("snapshot", "x"): 2}]) == 3


PARTS = st.dictionaries(st.tuples(st.just("blob"), st.sampled_from("abcdef")), st.just(10), max_size=4)
IMAGES = st.lists(st.tuples(st.integers(0, 3), PARTS), max_size=6)


@given(IMAGES, st.sets(st.integers(0, 5)), st.lists(PARTS, max_size=2), st.integers(0, 70))
def test_a_plan_keeps_its_word(
    drawn: list[tuple[int, dict[tuple[str, str], int]]],
    held: set[int],
    claims: list[dict[tuple[str, str], int]],
    limit: int,
) -> None:
    images = [Kept(str(number), used, parts) for number, (used, parts) in enumerate(drawn)]
    names = frozenset(str(number) for number in held)
    made = plan(images, names, claims, limit)
    assert not names & set(made.names)
    left = [one for one in images if one.name not in made.names]
    assert size_of([*claims, *(one.parts for one in left)]) == made.size
    for name in made.names:  # each is needed: with it the rest would be larger
        back = [one.parts for one in images if one.name not in set(made.names) - {name}]
        assert size_of([*claims, *back]) > made.size
    if made.size > limit:  # and all that can go would not be enough
        assert made.size == size_of([*claims, *(one.parts for one in images if one.name in names)])
