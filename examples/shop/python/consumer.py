#!/usr/bin/env python3
"""The stock service: takes one piece off the shelf for each order, exactly once."""

import json
import os
import signal
import sys

import pika
import psycopg2

import inbox

QUEUE = "stock-service"
SOURCE = "shop"  # who numbered the events


def take_from_stock(cursor, order):
    cursor.execute("UPDATE stock SET count = count - 1 WHERE item = %s", (order["item"],))
    if cursor.rowcount == 0:
        raise ValueError("there is no such item")


def handle(connection, event_id, order):
    """True if the event had its effect now. Marker and effect commit together, or neither does."""
    with connection, connection.cursor() as cursor:
        if not inbox.is_new(cursor, SOURCE, event_id):
            return False
        take_from_stock(cursor, order)
        return True


def main():
    database = psycopg2.connect(os.environ.get("DATABASE_URL", ""))
    url = os.environ.get("AMQP_URL", "amqp://guest:guest@localhost:5672/%2f")
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    channel.basic_qos(prefetch_count=1)

    def on_message(channel, method, properties, body):
        try:
            done = handle(database, properties.message_id, json.loads(body))
        except (psycopg2.OperationalError, psycopg2.InterfaceError):
            raise  # the database is away: end; the message stays in the queue for the next start
        except Exception as error:
            # This message will never work: to the dead letters. `tailwater dlq` shows, mends and replays it.
            print(f"dead letter: {type(error).__name__}", file=sys.stderr, flush=True)
            channel.basic_nack(method.delivery_tag, requeue=False)
        else:
            print("done" if done else "known", properties.message_id, flush=True)
            channel.basic_ack(method.delivery_tag)  # after the commit, never before

    channel.basic_consume(QUEUE, on_message)
    signal.signal(signal.SIGTERM, lambda *_: connection.add_callback_threadsafe(channel.stop_consuming))
    print("consuming", QUEUE, flush=True)
    try:
        channel.start_consuming()
    except KeyboardInterrupt:
        channel.stop_consuming()
    connection.close()


if __name__ == "__main__":
    main()
