"""USER against passwd and group files as images have them, well kept or not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mill.containerd.spec import User
from mill.containerd.users import Accounts, resolve
from mill.errors import StartError

PASSWD = """\
root:x:0:0:root:/root:/bin/sh
app:x:1000:1001:An App,,,:/home/app:/bin/sh
1234:x:55:56::/n:/bin/sh
nohome:x:7:8:::/bin/sh
short:x:9:9::/short
"""
GROUP = """\
root:x:0:
app:x:1001:
docker:x:900:app,other
video:x:44:other
audio:x:29:app
own:x:1001:app
bare:x:77
4321:x:78:
"""
KNOWN = Accounts(PASSWD, GROUP)


@pytest.mark.parametrize(("said", "user"), [
    ("", User(0, 0, (), "/root")),
    ("root", User(0, 0, (), "/root")),
    ("0", User(0, 0, (), "/root")),
    ("app", User(1000, 1001, (29, 900), "/home/app")),
    ("1000", User(1000, 1001, (29, 900), "/home/app")),
    ("0001000", User(1000, 1001, (29, 900), "/home/app")),
    ("app:video", User(1000, 44, (), "/home/app")),
    ("app:44", User(1000, 44, (), "/home/app")),
    ("app:bare", User(1000, 77, (), "/home/app")),
    ("app:5000", User(1000, 5000, (), "/home/app")),
    ("1000:docker", User(1000, 900, (), "/home/app")),
    ("app:", User(1000, 1001, (29, 900), "/home/app")),
    (":video", User(0, 44, (), "/root")),
    ("4321", User(4321, 0, (), "/")),
    ("4321:4321", User(4321, 4321, (), "/")),
    ("2147483647", User(2147483647, 0, (), "/")),
    ("1234", User(1234, 0, (), "/")),  # a name of digits is never meant
    ("1234:4321", User(1234, 4321, (), "/")),
    ("nohome", User(7, 8, (), "/")),
    ("short", User(9, 9, (), "/short")),
])  # fmt: skip
def test_who_runs(said: str, user: User) -> None:
    assert resolve(said, KNOWN) == user


@pytest.mark.parametrize(("said", "told"), [
    ("nobody", "no user 'nobody'"),
    ("app:nogroup", "no group 'nogroup'"),
    ("-1", "no user '-1'"),
    ("+5", "no user"),
    ("1e3", "no user"),
    ("²", "no user"),
    ("٣", "no user"),
    ("app:²", "no group"),
    ("2147483648", "the highest is 2147483647"),
    ("app:2147483648", "the highest is 2147483647"),
    ("9" * 5000, "the highest is"),
    ("App", "no user 'App'"),
    ("root:x", "no group 'x'"),
])  # fmt: skip
def test_who_cannot_run(said: str, told: str) -> None:
    with pytest.raises(StartError, match=told) as caught:
        resolve(said, KNOWN)
    assert caught.value.detail == "user"
    assert len(str(caught.value)) < 5200


def test_an_image_without_files_knows_numbers_only() -> None:
    assert resolve("", Accounts()) == User(0, 0, (), "/")
    assert resolve("65534:65534", Accounts()) == User(65534, 65534, (), "/")
    with pytest.raises(StartError, match="no user 'nobody'"):
        resolve("nobody", Accounts())


@pytest.mark.parametrize(("passwd", "user"), [
    ("app:x:5:6::/a:/sh", User(5, 6, (), "/a")),
    ("app:x:5:6::/a:/sh\r\n", User(5, 6, (), "/a")),
    ("\n\n# comment\napp:x:5:6::/a:/sh", User(5, 6, (), "/a")),
    ("app\napp:x\napp:x:5:6::/a:/sh", User(5, 6, (), "/a")),
    ("app:x:5:6::/a\napp:x:7:8::/b", User(5, 6, (), "/a")),  # the first one counts
    ("app:x:five:6::/a\napp:x:7:8::/b", User(7, 8, (), "/b")),
    ("app:x:²:6::/a\napp:x:7:8::/b", User(7, 8, (), "/b")),
    ("app:x:-1:6::/a\napp:x:7:8::/b", User(7, 8, (), "/b")),
    ("app:x:99999999999:6::/a\napp:x:7:8::/b", User(7, 8, (), "/b")),
    ("app:x:5:" + "9" * 5000 + "::/a\napp:x:7:8::/b", User(7, 8, (), "/b")),
    ("app:x:5:6:G\x0bE\x0cC\x1cO\x85S\u2028:/a:/sh", User(5, 6, (), "/a")),
    ("evil:x:0:0:\x0bapp:x:0:0::/:\napp:x:5:6::/a:/sh", User(5, 6, (), "/a")),  # no line ends within a field
    ("+::::::\n-@net::::::\napp:x:5:6::/a:/sh", User(5, 6, (), "/a")),
])  # fmt: skip
def test_odd_lines_are_passed_over(passwd: str, user: User) -> None:
    assert resolve("app", Accounts(passwd)) == user


@pytest.mark.parametrize(
    "group", ["g:x:²:app", "g:x:x:app", "g:x", "::::", "g:x:99999999999:app", "g:x:-5:app", "\0"]
)
def test_odd_groups_are_passed_over(group: str) -> None:
    accounts = Accounts(PASSWD, f"{group}\nreal:x:30:app\n")
    assert resolve("app", accounts).groups == (30,)
    assert resolve("app:real", accounts).gid == 30


files = st.text(st.sampled_from("ab:0159x,\n\r²\x0b #-"), max_size=80)


@given(st.text(st.sampled_from("ab:019²-"), max_size=8), files, files)
def test_whatever_an_image_says_it_is_a_user_or_a_start_error(said: str, passwd: str, group: str) -> None:
    try:
        user = resolve(said, Accounts(passwd, group))
    except StartError as error:
        if error.detail != "user":
            raise
    else:
        assert all(0 <= number < 2**31 for number in (user.uid, user.gid, *user.groups))
        assert user.home
        assert user.gid not in user.groups
