// node-postgres: see README.md. COPY needs another package.
"use strict";
const assert = require("assert");
const fs = require("fs");
const readline = require("readline");
const { Client } = require("pg");

const lines = readline.createInterface({ input: process.stdin });
const nextLine = () => new Promise((resolve) => lines.once("line", resolve));

async function use(database) {
  const where = { database };
  // It would take sslmode from the environment, but no authority.
  const tls = process.env.PGSSLROOTCERT;
  if (tls) where.ssl = { ca: fs.readFileSync(tls) };
  const client = new Client(where);
  await client.connect();
  console.log(database, "login");
  await client.query("begin");
  await client.query("create temp table zoo (n int) on commit drop");
  await client.query("insert into zoo values ($1)", [7]);
  assert.equal((await client.query("select n from zoo")).rows[0].n, 7);
  await client.query("commit");
  console.log(database, "transaction");
  for (const number of [1, 2]) {
    const asked = { name: "zoo", text: "select $1::int + 1 as n", values: [number] };
    assert.equal((await client.query(asked)).rows[0].n, number + 1);
  }
  console.log(database, "prepared");
  console.log(database, "sleeping");
  const query = client.query("select pg_sleep(60)");
  const ended = assert.rejects(query, { code: "57014" });
  await nextLine();
  // Requests to cancel go in clear text, whatever the client itself uses.
  const canceller = new Client({ ...where, ssl: false });
  canceller.cancel(client, client.activeQuery || client._activeQuery);
  await ended;
  console.log(database, "cancel");
  assert.equal((await client.query("select 8 as n")).rows[0].n, 8);
  await client.end();
  console.log(database, "done");
}

(async () => {
  for (const database of process.argv.slice(2)) await use(database);
  lines.close();
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
