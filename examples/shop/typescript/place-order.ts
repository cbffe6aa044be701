// Places an order: the order's row and its event, in one transaction.   node place-order.js NUMBER ITEM

import { Pool } from "pg";
import { publish } from "./outbox.js";
import { inTransaction } from "./transaction.js";

const [number, item] = process.argv.slice(2);
if (number === undefined || item === undefined) {
  console.error("node place-order.js NUMBER ITEM");
  process.exit(2);
}
const pool = new Pool({ connectionString: process.env.DATABASE_URL });
const id = await inTransaction(pool, async (transaction) => {
  await transaction.query("INSERT INTO orders (number, item) VALUES ($1, $2)", [number, item]);
  const payload = { number: Number(number), item };
  return publish(transaction, { type: "order.placed", aggregateType: "order", aggregateId: number, payload });
});
console.log(id);
await pool.end();
