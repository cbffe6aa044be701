"""Writes an event in the caller's transaction: it is published if and only if that transaction commits."""

import json


def publish(cursor, event_type, aggregate_type, aggregate_id, payload, traceparent=None):
    """`cursor` belongs to the transaction of the caller's own work. Returns the event's id."""
    cursor.execute(
        """INSERT INTO outbox (aggregatetype, aggregateid, type, payload, traceparent)
           VALUES (%s, %s, %s, %s, %s) RETURNING id::text""",
        (aggregate_type, str(aggregate_id), event_type, json.dumps(payload), traceparent),
    )
    return cursor.fetchone()[0]
