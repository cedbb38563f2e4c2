"""The cache keeps what holds, ages it, and never takes more than its bytes."""

import dns.message

from mill.dns.cache import Cache
from mill.dns.message import Question
from tests.dns.book import texts
from tests.dns.test_upstream import question, reply

MOST = 8192


def shown(cache: Cache, asked: Question, now_s: float) -> list[str] | None:
    made = cache.get(asked, now_s, udp=True)
    return None if made is None else texts(dns.message.from_wire(made).answer)


def test_an_answer_is_kept_until_its_ttl_is_over_and_ages_meanwhile() -> None:
    cache, asked = Cache(MOST), question("www.example.com")
    assert shown(cache, asked, 1000.0) is None
    cache.put(asked, reply("www.example.com"), 1000.0)
    assert shown(cache, asked, 1000.9) == ["www.example.com. 60 A 203.0.113.7"]
    assert shown(cache, question("WWW.example.COM"), 1059.9) == ["WWW.example.COM. 1 A 203.0.113.7"]
    assert shown(cache, asked, 1060.0) is None
    assert (len(cache), cache.size_bytes) == (0, 0)


def test_absences_are_kept_too() -> None:
    cache, asked = Cache(MOST), question("none.example.com")
    cache.put(asked, reply("none.example.com"), 0.0)
    assert shown(cache, asked, 19.0) == []
    assert shown(cache, asked, 20.0) is None


def test_other_types_flags_and_dnssec_are_other_questions() -> None:
    cache = Cache(MOST)
    cache.put(question("www.example.com"), reply("www.example.com"), 0.0)
    assert shown(cache, question("www.example.com", "TXT"), 0.0) is None
    assert shown(cache, question("www.example.com", flags=0), 0.0) is None
    assert shown(cache, question("www.example.com", use_edns=0, want_dnssec=True), 0.0) is None
    assert shown(cache, question("www.example.com", use_edns=0), 0.0) is not None


def test_what_holds_for_no_time_is_not_kept() -> None:
    cache, asked = Cache(MOST), question("now.example.com")
    cache.put(asked, reply("now.example.com"), 0.0)
    assert len(cache) == 0


def test_its_bytes_are_bounded_and_what_was_not_used_goes_first() -> None:
    cache = Cache(MOST)
    first, second = question("first.example.com"), question("second.example.com")
    kept = reply("www.example.com")
    cache.put(first, kept, 0.0)
    cache.put(second, kept, 0.0)
    for number in range(1000):
        assert cache.get(first, 1.0, udp=True) is not None
        cache.put(question(f"flood{number}.example.com"), kept, 1.0)
        assert cache.size_bytes <= MOST
    assert cache.get(second, 1.0, udp=True) is None
    assert 5 < len(cache) < 20
    assert repr(cache) == f"<Cache {len(cache)} answers, {cache.size_bytes} bytes>"


def test_an_answer_larger_than_the_cache_is_not_kept() -> None:
    cache, asked = Cache(2000), question("big.example.com", "TXT")
    cache.put(asked, reply("big.example.com", "TXT"), 0.0)
    assert (len(cache), cache.size_bytes) == (0, 0)


def test_a_newer_answer_takes_the_place_of_the_older_and_clear_forgets_all() -> None:
    cache, asked = Cache(MOST), question("www.example.com")
    cache.put(asked, reply("www.example.com"), 0.0)
    size = cache.size_bytes
    cache.put(asked, reply("www.example.com"), 50.0)
    assert (len(cache), cache.size_bytes) == (1, size)
    assert shown(cache, asked, 70.0) == ["www.example.com. 40 A 203.0.113.7"]
    cache.clear()
    assert (len(cache), cache.size_bytes, shown(cache, asked, 70.0)) == (0, 0, None)
