"""A task is reached by its name from its 201 on: names of the mesh, asked from inside of containers."""

import trio

from mill.client import Client
from mill.model import Record
from tests.scenarios.acts import end_of, printed, run, running, spawn

SERVE = "mkdir -p /www; echo page of $MILL_TASK_ID > /www/index.html; exec httpd -f -p 8080 -h /www"
FETCH = """
for i in $(seq 100); do
    wget -q -O - http://{name}:8080/ 2>/tmp/error && exit 0
    if grep -q 'bad address' /tmp/error; then cat /tmp/error; exit 8; fi
    sleep 0.1
done
cat /tmp/error; exit 1
"""
"""The connection may be tried again, the name never."""


async def fetched(client: Client, task_id: str) -> Record:
    return await end_of(client, await spawn(client, "sh", "-c", FETCH.format(name=f"{task_id}.mill")))


async def test_a_task_gets_anothers_page_by_its_name_right_after_its_201(client: Client) -> None:
    server = await spawn(client, "sh", "-c", SERVE)
    record = await fetched(client, server)
    assert (record.exit_code, await printed(client, record.id)) == (0, f"page of {server}\n")
    assert (await client.get(server)).spec.network == "mesh"
    await client.kill(server, grace=0)
    await end_of(client, server)
    gone = await fetched(client, server)
    assert gone.exit_code == 8, await printed(client, gone.id)


async def test_of_a_burst_larger_than_what_is_made_ahead_every_name_answers(client: Client) -> None:
    servers: list[str] = []

    async def one() -> None:
        servers.append(await spawn(client, "sh", "-c", SERVE, cpu=0.05, memory="16M"))

    asker = await running(client, "sh", "-c", "sleep 60", cpu=0.05)
    async with trio.open_nursery() as nursery:
        for _ in range(12):
            nursery.start_soon(one)
    names = " ".join(f"{server}.mill" for server in servers)
    script = f"for name in {names}; do nslookup $name > /tmp/said || {{ cat /tmp/said; exit 8; }}; done"
    record = await run(client, "sh", "-c", script)
    assert record.exit_code == 0, await printed(client, record.id)
    for task_id in (asker, *servers):
        await client.kill(task_id, grace=0)
    for task_id in (asker, *servers):
        await end_of(client, task_id)


async def test_a_task_asks_its_gateway_and_gets_itself_by_name(client: Client) -> None:
    record = await run(client, "sh", "-c", 'cat /etc/resolv.conf; nslookup "$MILL_TASK_ID.mill" | tail -n 3')
    text = await printed(client, record.id)
    assert record.ip is not None
    assert "nameserver 10.99." in text
    assert record.ip in text
