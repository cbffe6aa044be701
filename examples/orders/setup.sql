-- What the carriers of events need, and no more. Run by a superuser in postgres_outbox after `orders migrate`.

-- Orders_3: the relay that tails the log.
CREATE ROLE debezium LOGIN REPLICATION PASSWORD 'dbz';
GRANT SELECT ON "Transactional_Log_Tailing" TO debezium;
CREATE PUBLICATION orders_pub FOR TABLE "Transactional_Log_Tailing" WITH (publish = 'insert');

-- Orders_1 and Orders_2: the pollers.
CREATE ROLE poller LOGIN PASSWORD 'poller';
GRANT SELECT, UPDATE ON "Transactional_Outbox", "Listen_To_Yourself" TO poller;
