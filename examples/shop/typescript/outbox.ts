// Writes an event in the caller's transaction: it is published if and only if that transaction commits.

import type { ClientBase } from "pg";

export interface Event {
  type: string;
  aggregateType: string;
  /** The key: events with the same one stay in order. */
  aggregateId: string;
  payload: unknown;
  /** W3C Trace Context. */
  traceparent?: string;
}

/** `transaction` is a client between BEGIN and COMMIT of the caller's own work. Returns the event's id. */
export async function publish(transaction: ClientBase, event: Event): Promise<string> {
  const inserted = await transaction.query<{ id: string }>(
    `INSERT INTO outbox (aggregatetype, aggregateid, type, payload, traceparent)
     VALUES ($1, $2, $3, $4, $5) RETURNING id::text`,
    [event.aggregateType, event.aggregateId, event.type, JSON.stringify(event.payload), event.traceparent ?? null],
  );
  return inserted.rows[0]!.id;
}
