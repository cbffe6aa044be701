#!/usr/bin/env python3
"""The report worker in Python: builds a user's activity export for each `report.requested`.

Debian: apt-get install python3-pika python3-psycopg2. Settings: AMQP_URL, DATABASE_URL (or PGHOST, PGDATABASE, ...).
The mail is a row of the table `mail`; `reports mailer` sends it. The Rust worker (`reports worker`) does the same work
on the same tables, and both may run side by side.
"""

import csv
import io
import json
import os
import signal
import sys
import time

import pika
import psycopg2
import psycopg2.errors
import psycopg2.extensions

QUEUE = os.environ.get("QUEUE", "report-service")
SOURCE = "report-service"  # who numbered the event: the inbox's key is (source, id)

db = psycopg2.connect(os.environ.get("DATABASE_URL", ""))


class NotVisible(Exception):
    """The message may arrive before the transaction that wrote its row is visible to other sessions."""


def has_been_processed(cursor, idempotency_key):
    cursor.execute("SELECT 1 FROM inbox WHERE source = %s AND id = %s", (SOURCE, idempotency_key))
    return cursor.fetchone() is not None


def mark_as_processed(cursor, idempotency_key):
    # In the transaction of the work: both or neither. If another worker is doing the same event right now, this waits for
    # it and then fails on the key: everything here is rolled back, and the event has had its one effect.
    cursor.execute("INSERT INTO inbox (source, id) VALUES (%s, %s)", (SOURCE, idempotency_key))


def generate_report(cursor, idempotency_key, payload):
    report_id, user_id = payload["report_id"], payload["user_id"]
    cursor.execute("SELECT email FROM account WHERE user_id = %s", (user_id,))
    account = cursor.fetchone()
    if account is None:
        raise ValueError("there is no user with this id")
    cursor.execute("UPDATE report SET status = 'done', finished_at = now() WHERE id = %s", (report_id,))
    if cursor.rowcount == 0:
        raise NotVisible("there is no report with this id")
    cursor.execute(
        """SELECT to_char(happened_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'), action, detail FROM activity
           WHERE user_id = %(user)s
             AND (%(from)s::text IS NULL OR happened_at >= (%(from)s::text::date)::timestamp AT TIME ZONE 'UTC')
             AND (%(to)s::text IS NULL OR happened_at < (%(to)s::text::date + 1)::timestamp AT TIME ZONE 'UTC')
           ORDER BY happened_at, action, detail""",
        {"user": user_id, "from": payload.get("from"), "to": payload.get("to")},
    )
    rows = cursor.fetchall()
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["happened_at", "action", "detail"])
    writer.writerows(rows)
    export = text.getvalue().encode()
    cursor.execute("INSERT INTO export (report_id, rows, csv) VALUES (%s, %s, %s)", (report_id, len(rows), export))
    cursor.execute(
        """INSERT INTO mail (key, recipient, subject, body, file_name, attachment)
           VALUES (%s, %s, 'Your activity export', %s, %s, %s)""",
        (
            idempotency_key,
            account[0],
            f"Here is the activity export you asked for: {len(rows)} entries, in the attached file.\n",
            f"activity-{report_id}.csv",
            export,
        ),
    )


def process(event):
    """True if the event had its effect now, False if it was known."""
    with db, db.cursor() as cursor:  # one transaction: commit at the end, roll back on an exception
        if has_been_processed(cursor, event["idempotency_key"]):
            return False
        if event["event_type"] != "report.requested":
            raise ValueError("unknown event type")
        generate_report(cursor, event["idempotency_key"], event["payload"])
        mark_as_processed(cursor, event["idempotency_key"])
        return True


def process_once(event):
    """As `process`, with patience: another worker may be at the same event (one of the two is rolled back and looks
    again), and the report's row may not be visible yet."""
    pause = 0.02
    while True:
        try:
            return process(event)
        except (NotVisible, psycopg2.errors.UniqueViolation, psycopg2.extensions.TransactionRollbackError):
            if pause > 2:
                raise
        time.sleep(pause)
        pause *= 2


def mark_as_failed(event):
    """So that GET /reports/{id} tells it. Best effort."""
    try:
        with db, db.cursor() as cursor:
            cursor.execute(
                "UPDATE report SET status = 'failed', finished_at = now() WHERE id = %s AND status = 'requested'",
                (event["payload"]["report_id"],),
            )
    except (psycopg2.Error, KeyError, TypeError):
        pass


def callback(channel, method, properties, body):
    event = None
    try:
        event = json.loads(body)
        done = process_once(event)
    except (psycopg2.OperationalError, psycopg2.InterfaceError):
        raise  # the database is away: end; the message stays in the queue for the next start
    except Exception as error:
        print(f"to the dead letters: {type(error).__name__}", file=sys.stderr, flush=True)
        mark_as_failed(event)
        channel.basic_nack(delivery_tag=method.delivery_tag, requeue=False)
    else:
        print("done" if done else "known, skipped", flush=True)
        channel.basic_ack(delivery_tag=method.delivery_tag)


def main():
    url = os.environ.get("AMQP_URL", "amqp://guest:guest@localhost:5672/%2f")
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    channel.queue_declare(queue=QUEUE, durable=True)
    channel.basic_qos(prefetch_count=1)
    channel.basic_consume(queue=QUEUE, on_message_callback=callback)
    signal.signal(signal.SIGTERM, lambda *_: connection.add_callback_threadsafe(channel.stop_consuming))
    print(f"worker is consuming {QUEUE}", flush=True)
    try:
        channel.start_consuming()
    except KeyboardInterrupt:
        channel.stop_consuming()
    connection.close()


if __name__ == "__main__":
    main()
