"""The report measures, draws and leaves a picture."""

from pathlib import Path

from tests.cluster.report import LOSSES, report

PNG = b"\x89PNG\r\n\x1a\n"


def test_the_report_writes_a_picture_of_what_it_measured(tmp_path: Path) -> None:
    file = tmp_path / "cluster.png"
    speeds = report(file, sizes=(3, 10), pairs=200, most_crashes=3)
    assert [(speed.size, speed.loss) for speed in speeds] == [
        (size, loss) for size in (3, 10) for loss in LOSSES
    ]
    assert all(0 < speed.heard_s <= 2.4 and 0 < speed.median_s <= speed.slow_s for speed in speeds)
    assert file.read_bytes().startswith(PNG)
    assert file.stat().st_size > 20_000
