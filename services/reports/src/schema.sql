-- The report service's own tables. Every statement may run again.

CREATE TABLE IF NOT EXISTS account (
    user_id bigint PRIMARY KEY,
    email   text   NOT NULL
);

CREATE TABLE IF NOT EXISTS activity (
    user_id     bigint      NOT NULL REFERENCES account,
    happened_at timestamptz NOT NULL,
    action      text        NOT NULL,
    detail      text        NOT NULL DEFAULT ''
);
CREATE INDEX IF NOT EXISTS activity_by_user ON activity (user_id, happened_at);

-- One row for each report that was asked for. `idempotency_key` is the caller's, or the report's id.
CREATE TABLE IF NOT EXISTS report (
    id              uuid        PRIMARY KEY,
    idempotency_key text        NOT NULL UNIQUE,
    user_id         bigint      NOT NULL,
    from_day        date,
    to_day          date,
    status          text        NOT NULL DEFAULT 'requested' CHECK (status IN ('requested', 'done', 'failed')),
    requested_at    timestamptz NOT NULL DEFAULT now(),
    finished_at     timestamptz
);

-- What the API says to the world, in the same transaction as the row in `report`. (examples/reports/schema.sql has the
-- same table with an `id` column as well; a table that is there already is left as it is.)
CREATE TABLE IF NOT EXISTS outbox (
    event_type      text        NOT NULL,
    user_id         bigint,
    occurred_at     timestamptz NOT NULL DEFAULT now(),
    idempotency_key text        NOT NULL,
    payload         jsonb       NOT NULL
);

-- Written by a worker in one transaction: the inbox marker, the finished export, the mail to send.
CREATE TABLE IF NOT EXISTS inbox (
    source     text        NOT NULL,
    id         text        NOT NULL,
    handled_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (source, id)
);

CREATE TABLE IF NOT EXISTS export (
    report_id uuid    PRIMARY KEY REFERENCES report,
    rows      integer NOT NULL,
    csv       bytea   NOT NULL
);

-- A mail that is to be sent once: `key` becomes its Message-ID, so that a mail sent twice after a crash is known as one.
CREATE TABLE IF NOT EXISTS mail (
    key          text        PRIMARY KEY,
    recipient    text        NOT NULL,
    subject      text        NOT NULL,
    body         text        NOT NULL,
    file_name    text        NOT NULL,
    attachment   bytea       NOT NULL,
    attempts     integer     NOT NULL DEFAULT 0,
    next_attempt timestamptz NOT NULL DEFAULT now(),
    last_error   text,
    sent_at      timestamptz
);
CREATE INDEX IF NOT EXISTS mail_to_send ON mail (next_attempt) WHERE sent_at IS NULL;
