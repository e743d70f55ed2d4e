// node-postgres: see README.md. Argument: named or unnamed.
"use strict";
const net = require("net");
const { Client, Pool } = require("pg");
const table = `app_${process.env.APP_ID}`;
const session = process.env.APP_SESSION === "1";
const servers = Number(process.env.APP_SERVERS);
const named = process.argv[2] === "named";

const state = (asked) => asked.then(() => "fine", (error) => error.code || error.message);
const asked = (text, values, name) => (named && name ? { name, text, values } : { text, values });

// Ask to cancel what *c* runs; done when the request has been taken.
function cancel(c) {
  const request = Buffer.alloc(16);
  [16, 80877102, c.processID, c.secretKey].forEach((n, at) => request.writeInt32BE(n | 0, 4 * at));
  return new Promise((resolve) => {
    const wire = net.connect(process.env.PGPORT, process.env.PGHOST, () => wire.end(request));
    wire.on("close", resolve).on("error", resolve).resume();
  });
}

async function main() {
  const c = new Client({});
  await c.connect();
  await c.query(`drop table if exists ${table}`);
  await c.query(`create table ${table} (n int primary key, t text)`);
  let total = 0;
  for (let n = 0; n < 20; n++) total += (await c.query("select $1::int + 1 as n", [n])).rows[0].n;
  console.log("autocommit:", total);
  await c.query("begin");
  await c.query(`insert into ${table} values ($1, $2)`, [1, "one"]);
  await c.query("savepoint here");
  const failed = await state(c.query(`insert into ${table} values ($1, $2)`, [1, "x"]));
  await c.query("rollback to here");
  await c.query(`insert into ${table} values ($1, $2)`, [2, "two"]);
  await c.query("commit");
  console.log("transaction:", failed, (await c.query(`select count(*) from ${table}`)).rows);
  total = 0;
  for (let n = 0; n < 120; n++) {
    const text = `select t, $1::int as n from ${table} where n = $2`;
    for (const row of (await c.query(asked(text, [n, n % 3], "mine"))).rows) total += row.n;
  }
  console.log("prepared:", total);
  const all = `select * from ${table} where n = $1`;
  for (let n = 0; n < 3; n++) await c.query(asked(all, [1], "all"));
  const other = new Client({});
  await other.connect();
  await other.query(`alter table ${table} add more int default 3`);
  const changed = await state(c.query(asked(all, [1], "all")));
  const alike = servers > 1 && ["fine", "0A000"].includes(changed);
  console.log("changed:", alike ? "as servers are shared" : changed);
  for (let n = 0; n < servers; n++) {
    if ((await state(c.query(asked(all, [1], "again")))) === "fine") break;
  }
  console.log("changed, after:", (await c.query(asked(all, [1], "again"))).rows);
  // Sent behind one another, without waiting.
  const queries = [];
  for (let n = 0; n < 30; n++) queries.push(c.query(asked("select $1::int as n", [n], `q${n % 5}`)));
  queries.push(c.query("select 1 / $1::int", [0]));
  queries.push(c.query("select 2 as n"));
  const settled = await Promise.allSettled(queries);
  console.log("batch:", settled.map((one) => (one.value ? one.value.rows[0].n : one.reason.code)).join(" "));
  const several = await c.query("select 1 as n; select 2 as n; begin; commit");
  console.log("several:", several.map((one) => one.command).join(" "));
  const query = state(c.query("select pg_sleep(60)"));
  let told = null;
  query.then((said) => (told = said));
  while (told === null) {
    await cancel(c);
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
  console.log("cancel:", told);
  console.log("cancel, after:", (await c.query("select $1::int as n", [8])).rows);
  if (session) {
    const heard = new Promise((resolve) => c.once("notification", resolve));
    await c.query(`listen ${table}`);
    await other.query(`select pg_notify($1, $2)`, [table, "hello"]);
    const { channel, payload } = await heard;
    console.log("listen:", channel, payload);
  }
  await other.end();
  await c.end();
  const pool = new Pool({ max: 3 });
  const found = await Promise.all([...Array(40).keys()].map((n) => pool.query(asked("select $1::int as n", [n], "pooled"))));
  console.log("pool:", found.map((one) => one.rows[0].n).join(" "));
  await pool.end();
  const gone = new Client({});
  await gone.connect();
  gone.on("error", () => {});
  gone.query("select repeat('x', 1000000)").catch(() => {});
  gone.connection.stream.destroy();
  const last = new Client({});
  await last.connect();
  console.log("left:", (await last.query("select $1::int as n", [9])).rows);
  await last.end();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
