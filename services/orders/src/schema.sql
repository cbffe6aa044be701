-- The tables of the order services, in the database postgres_outbox. One table of orders; one outbox per pattern.
CREATE TABLE IF NOT EXISTS orders (
    id         uuid PRIMARY KEY,
    pattern    text NOT NULL,
    customer   text NOT NULL,
    item       text NOT NULL,
    quantity   integer NOT NULL CHECK (quantity > 0),
    status     text NOT NULL DEFAULT 'placed',
    created_at timestamptz NOT NULL DEFAULT now()
);

-- Orders_1: written with the order, in one transaction; read by pollers. seq gives them an order.
CREATE TABLE IF NOT EXISTS "Transactional_Outbox" (
    seq           bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    id            uuid PRIMARY KEY,
    aggregatetype text NOT NULL,
    aggregateid   text NOT NULL,
    type          text NOT NULL,
    payload       jsonb NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT now(),
    published_at  timestamptz
);

-- Orders_2: the event alone; the order follows when the service hears it.
CREATE TABLE IF NOT EXISTS "Listen_To_Yourself" (LIKE "Transactional_Outbox" INCLUDING ALL);

-- What pollers look for: rows that are not published yet, however many are.
CREATE INDEX IF NOT EXISTS transactional_outbox_unpublished ON "Transactional_Outbox" (seq) WHERE published_at IS NULL;
CREATE INDEX IF NOT EXISTS listen_to_yourself_unpublished ON "Listen_To_Yourself" (seq) WHERE published_at IS NULL;

-- Orders_3: written with the order, in one transaction; read from the log.
CREATE TABLE IF NOT EXISTS "Transactional_Log_Tailing" (
    id            uuid PRIMARY KEY,
    aggregatetype text NOT NULL,
    aggregateid   text NOT NULL,
    type          text NOT NULL,
    payload       jsonb NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT now()
);

-- What the consumers do. No unique key on the order: only the inbox keeps an effect from happening twice.
CREATE TABLE IF NOT EXISTS stock (
    item  text PRIMARY KEY,
    count bigint NOT NULL
);
CREATE TABLE IF NOT EXISTS reservation (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    order_id   uuid NOT NULL,
    pattern    text NOT NULL,
    item       text NOT NULL,
    quantity   integer NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE IF NOT EXISTS notification (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    order_id   uuid NOT NULL,
    pattern    text NOT NULL,
    text       text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
