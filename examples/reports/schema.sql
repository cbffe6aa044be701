-- The outbox of the recipe, the relay's role and the publication. Run it as the database's owner:
--   psql -d your_db -f schema.sql                 the table without an id column: the idempotency key is the id
--   psql -d your_db -v with_id=1 -f schema.sql    the table with an id column of its own
-- The server needs wal_level = logical.
\set ON_ERROR_STOP on
\if :{?with_id}
CREATE TABLE IF NOT EXISTS outbox (
    id              uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    event_type      text        NOT NULL,
    user_id         bigint,
    occurred_at     timestamptz NOT NULL DEFAULT now(),
    idempotency_key text        NOT NULL,
    payload         jsonb       NOT NULL
);
\else
CREATE TABLE IF NOT EXISTS outbox (
    event_type      text        NOT NULL,
    user_id         bigint,
    occurred_at     timestamptz NOT NULL DEFAULT now(),
    idempotency_key text        NOT NULL,
    payload         jsonb       NOT NULL
);
\endif

-- The relay reads one table and the log, and nothing else. Take another password outside of a trial.
DO $$
BEGIN
    CREATE ROLE debezium LOGIN REPLICATION PASSWORD 'password';
EXCEPTION WHEN duplicate_object THEN NULL;
END $$;
GRANT SELECT ON outbox TO debezium;

-- Only inserts are events. A publication of deletes as well would forbid the clean-up of a table without a primary key:
-- "cannot delete from table "outbox" because it does not have a replica identity and publishes deletes".
DO $$
BEGIN
    CREATE PUBLICATION outbox_pub FOR TABLE outbox WITH (publish = 'insert', publish_via_partition_root = true);
EXCEPTION WHEN duplicate_object THEN NULL;
END $$;
