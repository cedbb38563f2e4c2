"""All checks together: one that hangs or breaks spoils no other; order stays; who is not root sees what there is to see."""

from collections.abc import Iterable

import pytest
import trio

from mill.config import Config
from mill.daemon.doctor import examine
from mill.daemon.doctor.examine import Check, threaded
from mill.daemon.doctor.findings import Finding, ok, problem, report
from mill.daemon.doctor.host import Host


def fine(_: Host) -> Iterable[Finding]:
    yield ok("fine", "is fine")


def broken(_: Host) -> Iterable[Finding]:
    yield ok("broken", "half-way")
    raise ZeroDivisionError("a host\nthat nobody thought of")


async def hangs(_: Host) -> Iterable[Finding]:
    await trio.sleep_forever()
    return ()


async def test_one_that_hangs_and_one_that_breaks_are_lines_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(examine, "CHECK_S", 0.2)
    checks = [Check("hangs", hangs), Check("broken", threaded(broken)), Check("fine", threaded(fine))]
    found = await examine.examine(Host(Config(), euid=0), checks)
    assert [(one.check, str(one.level)) for one in found] == [
        ("hangs", "warning"), ("broken", "warning"), ("fine", "ok"),
    ]  # fmt: skip
    assert "within 0.2 s" in found[0].found
    assert found[1].found == "could not be checked: ZeroDivisionError: a host that nobody thought of"


async def test_who_is_not_root_gets_no_false_alarm() -> None:
    """Only what needs no right is judged; the one problem is the missing right."""
    found = await examine.examine(Host(Config(), euid=1000))
    assert {one.check for one in found if one.level == "problem"} == {"root"}
    assert {"containerd", "cgroups", "overlayfs", "milld"}.isdisjoint(one.check for one in found)
    assert {"kernel", "clock", "disk"} <= {one.check for one in found}


def test_the_report_counts() -> None:
    said = report([ok("a", "fine"), problem("b", "bad", "mend it")])
    assert (said["problems"], said["warnings"]) == (1, 0)
    assert said["findings"][1] == {"check": "b", "level": "problem", "found": "bad", "advice": ("mend it",)}
