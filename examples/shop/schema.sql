-- Orders and their events, the stock that follows them, the relay's role. Every statement may run again:
--   psql -d your_db -f schema.sql
-- The server needs wal_level = logical.
\set ON_ERROR_STOP on

-- The shop: an order, and in the same transaction what it says to the world.
CREATE TABLE IF NOT EXISTS orders (
    number    bigint      PRIMARY KEY,
    item      text        NOT NULL,
    placed_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS outbox (
    id            uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    aggregatetype text        NOT NULL,               -- what it is about
    aggregateid   text        NOT NULL,               -- the key: events of one order stay in order
    type          text        NOT NULL,               -- what happened; the routing key
    payload       jsonb       NOT NULL,
    traceparent   text,                               -- W3C Trace Context
    xid           text        NOT NULL DEFAULT pg_current_xact_id()::text, -- for consumers that read what it is about
    occurred_at   timestamptz NOT NULL DEFAULT now()
);

-- The stock: usually another service with a database of its own.
CREATE TABLE IF NOT EXISTS stock (
    item  text    PRIMARY KEY,
    count integer NOT NULL
);

-- One row for each event that had its effect, written in the transaction of the effect. The key is (source, id): two
-- producers may use the same id.
CREATE TABLE IF NOT EXISTS inbox (
    source     text        NOT NULL,
    id         text        NOT NULL,
    handled_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (source, id)
);
CREATE INDEX IF NOT EXISTS inbox_handled_at ON inbox USING brin (handled_at);

-- The relay reads one table and the log. Take another password outside of a trial.
DO $$
BEGIN
    CREATE ROLE shop_relay LOGIN REPLICATION PASSWORD 'password';
EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
END $$;
GRANT SELECT ON outbox TO shop_relay;
DO $$
BEGIN
    CREATE PUBLICATION shop FOR TABLE outbox WITH (publish = 'insert');
EXCEPTION WHEN duplicate_object THEN NULL;
END $$;
