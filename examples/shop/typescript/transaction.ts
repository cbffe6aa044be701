// One transaction: commit at the end, roll back on an exception.

import type { ClientBase, Pool } from "pg";

export async function inTransaction<T>(pool: Pool, work: (transaction: ClientBase) => Promise<T>): Promise<T> {
  const client = await pool.connect();
  try {
    await client.query("BEGIN");
    const result = await work(client);
    await client.query("COMMIT");
    client.release();
    return result;
  } catch (error) {
    // A connection that cannot even roll back is thrown away, and its transaction with it.
    await client.query("ROLLBACK").then(() => client.release(), () => client.release(true));
    throw error;
  }
}
