#!/usr/bin/env python3
"""Places an order: the order's row and its event, in one transaction.   place_order.py NUMBER ITEM"""

import os
import sys

import psycopg2

import outbox


def place_order(connection, number, item, traceparent=None):
    with connection, connection.cursor() as cursor:  # one transaction: commit at the end, roll back on an exception
        cursor.execute("INSERT INTO orders (number, item) VALUES (%s, %s)", (number, item))
        return outbox.publish(cursor, "order.placed", "order", number, {"number": number, "item": item}, traceparent)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    database = psycopg2.connect(os.environ.get("DATABASE_URL", ""))
    print(place_order(database, int(sys.argv[1]), sys.argv[2]))
