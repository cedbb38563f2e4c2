"""`mill nodes rotate-secret`: what it has done is one line, what is left to do another; what it did not do is told."""

import json

from tests.cli.conftest import Mill
from tests.client.fake_api import FakeApi

DONE = {"key_id": "0123abcd", "nodes": ["n1", "n2"]}
PATH = "/v1/rotate-secret"


def test_the_new_secret_is_told_by_its_key_and_by_who_has_it(api: FakeApi, mill: Mill) -> None:
    api.answers[PATH] = (200, json.dumps(DONE).encode())
    result = mill("nodes", "rotate-secret")
    assert result.stdout == "secret 0123abcd is in use on n1, n2; the one before it is good for nothing\n"
    assert "cluster.secret and ca.pem have changed on each" in result.stderr
    assert (api.requests[-1].method, api.requests[-1].body) == ("POST", b"")


def test_as_json_it_is_the_answer_alone(api: FakeApi, mill: Mill) -> None:
    api.answers[PATH] = (200, json.dumps(DONE).encode())
    result = mill("nodes", "rotate-secret", "--json")
    assert (json.loads(result.stdout), result.stderr) == (DONE, "")


def test_one_that_is_refused_is_one_line(api: FakeApi, mill: Mill) -> None:
    problem = {
        "type": "urn:mill:problem:conflict",
        "title": "conflict",
        "status": 409,
        "detail": "n3 is away",
    }
    api.answers[PATH] = (409, json.dumps(problem).encode())
    assert mill("nodes", "rotate-secret", code=1).stderr == "mill: n3 is away\n"
