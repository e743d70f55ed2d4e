"""asyncpg: see README.md."""

import asyncio
import os
import ssl
import sys

import asyncpg


async def use(database: str) -> None:
    authority = os.environ.get("PGSSLROOTCERT")
    connection = await asyncpg.connect(
        database=database,
        ssl=ssl.create_default_context(cafile=authority) if authority else False,
    )
    print(database, "login", flush=True)
    async with connection.transaction():
        await connection.execute("create temp table zoo (n int) on commit drop")
        await connection.execute("insert into zoo values ($1)", 7)
        assert await connection.fetchval("select n from zoo") == 7
    print(database, "transaction", flush=True)
    statement = await connection.prepare("select $1::int + 1")
    for number in (1, 2):
        assert await statement.fetchval(number) == number + 1
    print(database, "prepared", flush=True)
    async with connection.transaction():
        await connection.execute("create temp table zoo (n int) on commit drop")
        rows = [(number,) for number in range(1000)]
        await connection.copy_records_to_table("zoo", records=rows)
        told = []

        async def take(part: bytes) -> None:
            told.append(part)

        await connection.copy_from_query("select n from zoo", output=take)
        assert sum(map(int, b"".join(told).split())) == 499500
    print(database, "copy", flush=True)
    sleeper = asyncio.ensure_future(connection.execute("select pg_sleep(60)"))
    print(database, "sleeping", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    # asyncpg asks the server to cancel when the task is.
    sleeper.cancel()
    try:
        await sleeper
    except asyncio.CancelledError:
        print(database, "cancel", flush=True)
    assert await connection.fetchval("select 8") == 8
    await connection.close()
    print(database, "done", flush=True)


for name in sys.argv[1:]:
    asyncio.run(use(name))
