"""At most one effect per event, however often it is delivered."""


def is_new(cursor, source, event_id):
    """True once per (source, event_id): do the work, in the same transaction. False: it had its effect before.

    If another worker has the same event right now, this waits for the end of its transaction.
    """
    cursor.execute(
        "INSERT INTO inbox (source, id) VALUES (%s, %s) ON CONFLICT DO NOTHING",
        (source, event_id),
    )
    return cursor.rowcount == 1


def prune(connection, keep, redelivered_within, batch=5000):
    """Forgets markers older than `keep`, a timedelta. `redelivered_within` is the longest time after which an event may
    still be delivered again, e.g. replayed from the dead letters: a shorter `keep` is refused."""
    if keep <= redelivered_within:
        raise ValueError("markers must be kept longer than an event may be redelivered")
    forgotten = batch
    while forgotten == batch:
        with connection, connection.cursor() as cursor:  # each batch is a transaction of its own
            cursor.execute(
                """DELETE FROM inbox WHERE ctid = ANY (ARRAY(
                       SELECT ctid FROM inbox WHERE handled_at < now() - %s LIMIT %s FOR UPDATE SKIP LOCKED))""",
                (keep, batch),
            )
            forgotten = cursor.rowcount
