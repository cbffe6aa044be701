// The stock service: takes one piece off the shelf for each order, exactly once.

import { connect } from "amqplib";
import { Pool } from "pg";
import { isNew } from "./inbox.js";
import { inTransaction } from "./transaction.js";

const QUEUE = "stock-service";
const SOURCE = "shop"; // who numbered the events

/** An order that can never be taken from the stock. */
class Poison extends Error {}

function read(body: Buffer): { item: string } {
  try {
    const order: unknown = JSON.parse(body.toString());
    if (typeof order === "object" && order !== null && "item" in order && typeof order.item === "string") {
      return { item: order.item };
    }
  } catch {
    // falls through
  }
  throw new Poison("not an order");
}

const pool = new Pool({ connectionString: process.env.DATABASE_URL });
const connection = await connect(process.env.AMQP_URL ?? "amqp://guest:guest@localhost:5672/%2f");
const channel = await connection.createChannel();
await channel.prefetch(1);
await channel.consume(QUEUE, async (message) => {
  if (message === null) process.exit(1); // the queue was deleted
  try {
    const id = message.properties.messageId as string;
    const done = await inTransaction(pool, async (transaction) => {
      if (!(await isNew(transaction, SOURCE, id))) return false;
      const taken = await transaction.query("UPDATE stock SET count = count - 1 WHERE item = $1", [
        read(message.content).item,
      ]);
      if (taken.rowCount === 0) throw new Poison("there is no such item");
      return true;
    });
    console.log(done ? "done" : "known", id);
    channel.ack(message); // after the commit, never before
  } catch (error) {
    if (error instanceof Poison) {
      console.error("dead letter:", error.message); // `tailwater dlq` shows, mends and replays it
      channel.nack(message, false, false);
    } else {
      console.error("stopped:", error instanceof Error ? error.message : error);
      process.exit(1); // the database is away: the message stays in the queue for the next start
    }
  }
});
console.log("consuming", QUEUE);
process.once("SIGTERM", () => void connection.close().then(() => pool.end()));
