-- An outbox for examples/connect/connector.json: the table, the role that reads it, the publication.
CREATE TABLE outbox (
    id            uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    aggregatetype text NOT NULL,      -- names the topic
    aggregateid   text NOT NULL,      -- the record's key
    type          text NOT NULL,
    payload       jsonb NOT NULL
);
CREATE ROLE debezium LOGIN REPLICATION PASSWORD 'dbz';
GRANT SELECT ON outbox TO debezium;
CREATE PUBLICATION shop_pub FOR TABLE outbox WITH (publish = 'insert');
