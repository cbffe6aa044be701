// At most one effect per event, however often it is delivered.

import type { ClientBase } from "pg";

/**
 * True once per (source, id): do the work, in the same transaction. False: it had its effect before.
 * If another worker has the same event right now, this waits for the end of its transaction.
 */
export async function isNew(transaction: ClientBase, source: string, id: string): Promise<boolean> {
  const marked = await transaction.query(
    "INSERT INTO inbox (source, id) VALUES ($1, $2) ON CONFLICT DO NOTHING",
    [source, id],
  );
  return marked.rowCount === 1;
}
