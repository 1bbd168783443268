-- The journal of exportgate in one place. Run it as the owner of the database; running it again changes nothing but the
-- functions and the view. Then give the gateways' login the role exportgate_writer, and people's logins exportgate_reader:
--   CREATE ROLE exportgate LOGIN PASSWORD '...'; GRANT exportgate_writer TO exportgate;
-- Records are kept for as long as exportgate.format says: UPDATE exportgate.format SET keep = '90 days';
BEGIN;

DO $$ BEGIN
    IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'exportgate_writer') THEN
        CREATE ROLE exportgate_writer NOLOGIN;
    END IF;
    IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'exportgate_reader') THEN
        CREATE ROLE exportgate_reader NOLOGIN;
    END IF;
END $$;

CREATE SCHEMA IF NOT EXISTS exportgate;

CREATE TABLE IF NOT EXISTS exportgate.format (number integer NOT NULL, keep interval NOT NULL);
INSERT INTO exportgate.format SELECT 1, '400 days' WHERE NOT EXISTS (SELECT 1 FROM exportgate.format);

-- Each table has a partition for each month. The month is that of the id of the request that caused a record, so that a
-- record never changes its partition, and its id is there once. Ids and texts are compared byte by byte (COLLATE "C").
CREATE TABLE IF NOT EXISTS exportgate.attempts (
    month             date NOT NULL,
    gateway           text NOT NULL,
    id                text COLLATE "C" NOT NULL,
    started_ms        bigint NOT NULL,
    latency_us        bigint NOT NULL,
    upstream          text NOT NULL,
    credential        text NOT NULL,
    api               text NOT NULL,
    request_id        text COLLATE "C" NOT NULL,
    client            text COLLATE "C" NOT NULL,
    answered          boolean NOT NULL,
    sent_id           text COLLATE "C" NOT NULL,
    received_id       text COLLATE "C",
    scope_kind        text,
    scope_id          text COLLATE "C",
    export_id         text COLLATE "C",
    operation         text NOT NULL,
    method            text NOT NULL,
    status            integer,
    export_status     text,
    bytes             bigint,
    version_requested text,
    version_served    text,
    lifecycle         text,
    deprecation       text,
    sunset            text,
    error             text,
    try               bigint NOT NULL,
    queued_us         bigint NOT NULL,
    waited_for        text,
    PRIMARY KEY (id, month)
) PARTITION BY LIST (month);
CREATE INDEX IF NOT EXISTS attempts_started ON exportgate.attempts (started_ms, id);
CREATE INDEX IF NOT EXISTS attempts_request ON exportgate.attempts (request_id);
CREATE INDEX IF NOT EXISTS attempts_sent ON exportgate.attempts (sent_id) WHERE sent_id <> id;
CREATE INDEX IF NOT EXISTS attempts_received ON exportgate.attempts (lower(received_id)) WHERE received_id <> sent_id;
CREATE INDEX IF NOT EXISTS attempts_export ON exportgate.attempts (export_id, started_ms, id) WHERE export_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS attempts_scope ON exportgate.attempts (scope_id, started_ms, id) WHERE scope_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS attempts_client ON exportgate.attempts (client, started_ms, id) WHERE answered;
CREATE INDEX IF NOT EXISTS attempts_status ON exportgate.attempts ((status / 100), started_ms, id) WHERE status <> 200;
CREATE INDEX IF NOT EXISTS attempts_error ON exportgate.attempts (started_ms, id) WHERE error IS NOT NULL OR status IS NULL;

CREATE TABLE IF NOT EXISTS exportgate.served (
    month      date NOT NULL,
    attempt    text COLLATE "C" NOT NULL,
    request_id text COLLATE "C" NOT NULL,
    client     text COLLATE "C" NOT NULL,
    started_ms bigint NOT NULL,
    PRIMARY KEY (attempt, request_id, month)
) PARTITION BY LIST (month);
CREATE INDEX IF NOT EXISTS served_request ON exportgate.served (request_id);
CREATE INDEX IF NOT EXISTS served_client ON exportgate.served (client, started_ms, attempt, month);

CREATE TABLE IF NOT EXISTS exportgate.transfers (
    month       date NOT NULL,
    gateway     text NOT NULL,
    started_ms  bigint NOT NULL,
    duration_us bigint NOT NULL,
    request_id  text COLLATE "C" NOT NULL,
    client      text COLLATE "C" NOT NULL,
    scope_kind  text NOT NULL,
    scope_id    text COLLATE "C" NOT NULL,
    export_id   text COLLATE "C" NOT NULL,
    file        text NOT NULL,
    host        text,
    range_first bigint,
    range_last  bigint,
    bytes       bigint NOT NULL,
    resumes     bigint NOT NULL,
    renewals    bigint NOT NULL,
    outcome     text NOT NULL,
    PRIMARY KEY (request_id, month)
) PARTITION BY LIST (month);
CREATE INDEX IF NOT EXISTS transfers_started ON exportgate.transfers (started_ms, request_id);
CREATE INDEX IF NOT EXISTS transfers_export ON exportgate.transfers (export_id, started_ms);

CREATE OR REPLACE VIEW exportgate.requests AS
SELECT to_char(timestamp 'epoch' + a.started_ms * interval '1 millisecond', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS started,
       a.latency_us / 1000.0 AS latency_ms, a.operation, a.method, a.scope_kind, a.scope_id, a.export_id,
       a.status, a.export_status, a.error, a.received_id, a.sent_id, a.request_id, a.client,
       a.answered::int + (SELECT count(*) FROM exportgate.served s WHERE s.attempt = a.id AND s.month = a.month) AS clients,
       a.try, a.queued_us / 1000.0 AS queued_ms, a.waited_for,
       a.upstream, a.credential, a.bytes, a.version_requested, a.version_served, a.lifecycle,
       a.deprecation, a.sunset, a.id, a.gateway, a.month, a.started_ms
FROM exportgate.attempts a;

-- Gateways call these two, and have no other right over the tables than to add to them: none can delete what is on record.
CREATE OR REPLACE FUNCTION exportgate.prepare(wanted date) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    part text;
    suffix text := to_char(wanted, '_YYYY_MM');
BEGIN
    IF to_regclass('exportgate.transfers' || suffix) IS NOT NULL THEN RETURN; END IF;
    PERFORM pg_advisory_xact_lock(1702389620);
    FOREACH part IN ARRAY ARRAY['attempts', 'served', 'transfers'] LOOP
        EXECUTE format('CREATE TABLE IF NOT EXISTS exportgate.%I PARTITION OF exportgate.%I FOR VALUES IN (%L)',
            part || suffix, part, date_trunc('month', wanted)::date);
    END LOOP;
END $$;

CREATE OR REPLACE FUNCTION exportgate.forget() RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    part text;
    oldest text := (SELECT to_char(now() AT TIME ZONE 'UTC' - keep, 'YYYY_MM') FROM exportgate.format);
    gone integer := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(1702389620);
    FOR part IN
        SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent IN ('exportgate.attempts'::regclass, 'exportgate.served'::regclass, 'exportgate.transfers'::regclass)
          AND right(c.relname, 7) < oldest
    LOOP
        EXECUTE format('DROP TABLE exportgate.%I', part);
        gone := gone + 1;
    END LOOP;
    RETURN gone;
END $$;

REVOKE ALL ON FUNCTION exportgate.prepare(date), exportgate.forget() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION exportgate.prepare(date), exportgate.forget() TO exportgate_writer;
GRANT USAGE ON SCHEMA exportgate TO exportgate_writer, exportgate_reader;
GRANT SELECT ON ALL TABLES IN SCHEMA exportgate TO exportgate_reader, exportgate_writer;
GRANT INSERT ON exportgate.attempts, exportgate.served, exportgate.transfers TO exportgate_writer;
-- What completes an attempt, and nothing that would move it to another month.
GRANT UPDATE (started_ms, latency_us, answered, received_id, export_id, status, export_status, bytes, version_served, lifecycle,
    deprecation, sunset, error, queued_us, waited_for) ON exportgate.attempts TO exportgate_writer;

COMMIT;
