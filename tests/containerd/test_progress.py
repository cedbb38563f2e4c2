"""What a pull says of its layers, whatever was there before and in whatever order its parts come."""

from collections.abc import Callable

import pytest

from mill.containerd.progress import Progress
from mill.model import LayerProgress, LayerState, PullProgress

A, B = "sha256:a", "sha256:b"


@pytest.fixture
def progress() -> Progress:
    made = Progress()
    made.expect(35, [(A, 10), (B, 20)])
    return made


def states(progress: Progress) -> list[str]:
    return [str(layer.state) for layer in progress.value().layers]


def test_nothing_is_known_before_the_manifest() -> None:
    assert Progress().value() == PullProgress(0, None, ())


def test_layers_stand_bottom_first_and_their_bytes_add_up_with_the_documents(progress: Progress) -> None:
    progress.other = 5
    progress.fetching(B)
    progress.came(B, 7)
    assert progress.value() == PullProgress(
        12,
        35,
        (LayerProgress(A, LayerState.WAITING, 0, 10), LayerProgress(B, LayerState.DOWNLOADING, 7, 20)),
    )


def test_a_layer_goes_from_waiting_to_done(progress: Progress) -> None:
    steps: list[Callable[[], None]] = [
        lambda: None,
        lambda: progress.fetching(A),
        lambda: progress.stored(A),
        lambda: progress.unpacking(A),
        lambda: progress.unpacked(A, made=True),
    ]
    seen = []
    for step in steps:
        step()
        seen.append(states(progress)[0])
    assert seen == ["waiting", "downloading", "downloaded", "unpacking", "done"]


def test_a_layer_that_was_there_with_its_snapshot_exists_whichever_is_noticed_first(
    progress: Progress,
) -> None:
    progress.unpacked(A, made=False)
    assert states(progress) == ["waiting", "waiting"]
    progress.stored(A)
    progress.stored(B)
    progress.unpacked(B, made=False)
    assert states(progress) == ["exists", "exists"]


def test_a_layer_of_which_only_a_part_was_there_is_done(progress: Progress) -> None:
    progress.stored(A)  # the blob, not the snapshot
    progress.unpacking(A)
    progress.unpacked(A, made=True)
    progress.unpacked(B, made=False)  # the snapshot, not the blob
    progress.fetching(B)
    progress.stored(B)
    assert states(progress) == ["done", "done"]
