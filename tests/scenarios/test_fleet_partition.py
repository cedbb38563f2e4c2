"""Real nodes whose link is cut for longer than a verdict takes, and healed, while clients work on both sides. Minutes long: under MILL_LONG=1.

The cut that every run sees, two nodes from the third, is in `test_fleet_weather`.
"""

import os
from pathlib import Path

import pytest

from tests.scenarios.fleet import fleet
from tests.scenarios.parting import Parting

pytestmark = pytest.mark.skipif(not os.environ.get("MILL_LONG"), reason="takes minutes; MILL_LONG=1")

CUT_S = 60.0


def test_a_leader_that_is_cut_off_leads_no_longer_and_loses_what_it_had(busybox_archive: Path) -> None:
    with fleet(3, busybox_archive) as three:
        parting = Parting(three, three[:1], CUT_S)
        parting.run()
        assert parting.condemned


def test_of_two_nodes_the_founder_goes_on_and_the_other_loses_what_it_had(busybox_archive: Path) -> None:
    with fleet(2, busybox_archive) as two:
        parting = Parting(two, two[1:], CUT_S)
        parting.run()
        assert parting.condemned


def test_a_node_that_none_hears_loses_what_it_had(busybox_archive: Path) -> None:
    with fleet(3, busybox_archive) as three:
        parting = Parting(three, three[2:], CUT_S, ["OUTPUT"])
        parting.run()
        assert parting.condemned


def test_a_node_that_hears_nobody_but_is_heard_loses_nothing(busybox_archive: Path) -> None:
    with fleet(3, busybox_archive) as three:
        parting = Parting(three, three[2:], CUT_S, ["INPUT"])
        parting.run()
        assert not parting.condemned
