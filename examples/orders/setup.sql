-- What the carriers of events need, and no more. Run by a superuser in postgres_outbox after `orders migrate`; a second time
-- is harmless.

DO $$
BEGIN
    -- Orders_3: the relay that tails the log.
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'debezium') THEN
        CREATE ROLE debezium LOGIN REPLICATION PASSWORD 'dbz';
    END IF;
    IF NOT EXISTS (SELECT FROM pg_publication WHERE pubname = 'orders_pub') THEN
        CREATE PUBLICATION orders_pub FOR TABLE "Transactional_Log_Tailing" WITH (publish = 'insert');
    END IF;
    -- Orders_1 and Orders_2: the pollers.
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'poller') THEN
        CREATE ROLE poller LOGIN PASSWORD 'poller';
    END IF;
END $$;
GRANT SELECT ON "Transactional_Log_Tailing" TO debezium;
GRANT SELECT, UPDATE ON "Transactional_Outbox", "Listen_To_Yourself" TO poller;

-- Wake the pollers at each commit instead of at their next look (tailwater init prints the same).
CREATE OR REPLACE FUNCTION tailwater_notify() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify(TG_ARGV[0], '');
    RETURN NULL;
END $$;
CREATE OR REPLACE TRIGGER tailwater_notify AFTER INSERT ON "Transactional_Outbox"
    FOR EACH STATEMENT EXECUTE FUNCTION tailwater_notify('tailwater_transactional_outbox');
CREATE OR REPLACE TRIGGER tailwater_notify AFTER INSERT ON "Listen_To_Yourself"
    FOR EACH STATEMENT EXECUTE FUNCTION tailwater_notify('tailwater_listen_to_yourself');
