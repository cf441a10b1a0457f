-- Vendor channels: credentials, claims and jobs. Everything is added, nothing changed.

-- +goose Up

-- An app's credential for a vendor channel, and the one that is being checked before it takes its place.
CREATE SEQUENCE credential_version;
CREATE TABLE channel_credential (
    app_no         integer NOT NULL REFERENCES app,
    channel        text NOT NULL,
    candidate      boolean NOT NULL,
    version        bigint NOT NULL,
    sealed         bytea NOT NULL, -- JSON object, encrypted
    key_id         bigint NOT NULL, -- of the key that it is sealed with
    receipt_secret text NOT NULL CHECK (receipt_secret ~ '^[0-9a-f]{32}$'),
    expires_at     timestamptz,
    note           text NOT NULL DEFAULT '',
    unchecked      boolean NOT NULL DEFAULT false,
    set_at         timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (app_no, channel, candidate)
);

-- A token that the vendor calls void is deleted (made empty); the row stays and says when.
ALTER TABLE channel_token ADD COLUMN gone_at timestamptz;
-- Receipts of vendors name the token only. Tokens may be too long for an index. It does not begin with the bucket: the planner
-- would take it for what the primary key is for.
CREATE INDEX channel_token_token ON channel_token (hashtextextended(token, 0)) WHERE gone_at IS NULL;
-- Who is left out of claims of notifications.
CREATE INDEX device_silent ON device (bucket, app_no, ordinal) WHERE NOT notifications;

-- Tokens that are called void, and stay until somebody decides: too many were at once.
CREATE TABLE held_token (
    bucket  smallint NOT NULL,
    app_no  integer NOT NULL,
    ordinal bigint NOT NULL,
    channel text NOT NULL,
    token   text NOT NULL,
    gone_at timestamptz, -- void at this time already; NULL: when it was held
    held_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (bucket, app_no, ordinal, channel)
);
CREATE INDEX held_token_app ON held_token (app_no, channel, ordinal);

-- Results of vendors by the minute, to see when an unusual share of tokens turns void.
CREATE TABLE vendor_result (
    app_no  integer NOT NULL,
    channel text NOT NULL,
    minute  integer NOT NULL, -- since 1970
    results bigint NOT NULL,
    gone    bigint NOT NULL,
    PRIMARY KEY (app_no, channel, minute)
) WITH (fillfactor = 50);

-- How direct pushes go. policy is halley.push.v1.Policy.Channel, 0 for the default.
ALTER TABLE push ADD COLUMN policy smallint NOT NULL DEFAULT 0;
ALTER TABLE push ADD COLUMN claim_after interval; -- when the vendor way opens after the push is kept; NULL: never by time
ALTER TABLE inbox ADD COLUMN policy smallint NOT NULL DEFAULT 0;
ALTER TABLE inbox ADD COLUMN claim_at timestamptz; -- when the vendor way opens; NULL: it does not, or has
ALTER TABLE inbox ADD COLUMN claimed smallint; -- the channel that has it, by its number
ALTER TABLE inbox ADD COLUMN released boolean NOT NULL DEFAULT false; -- the channel did not take it: the own connection has it again

-- The try at a vendor of a direct delivery.
CREATE TABLE attempt (
    bucket  smallint NOT NULL,
    push_id uuid NOT NULL,
    ordinal bigint NOT NULL,
    app_no  integer NOT NULL,
    channel smallint NOT NULL,
    outcome smallint NOT NULL DEFAULT 0, -- halley.sender.v1.Outcome; 0: under way
    code    text NOT NULL DEFAULT '',
    at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (bucket, push_id, ordinal, channel)
) PARTITION BY RANGE (push_id);

ALTER TABLE push_slice ADD COLUMN claim_at timestamptz; -- when who was handed the push and has not confirmed it is claimed
ALTER TABLE push_slice ADD COLUMN offer_at timestamptz; -- when what vendors released is handed to the own connections
CREATE INDEX push_slice_claim_at ON push_slice (claim_at) WHERE claim_at IS NOT NULL;
CREATE INDEX push_slice_offer_at ON push_slice (offer_at) WHERE offer_at IS NOT NULL;

-- What is claimed for a vendor and has no result yet. Committed together with the claim; the jobs in JetStream are made from
-- it, as often as it takes. Members go with their results, and the row with the last of them.
CREATE SEQUENCE send_job_no;
CREATE TABLE send_job (
    bucket      smallint NOT NULL,
    push_id     uuid NOT NULL,
    slice       integer NOT NULL,
    channel     smallint NOT NULL,
    job         bigint NOT NULL DEFAULT nextval('send_job_no'),
    app_no      integer NOT NULL,
    audience    boolean NOT NULL,
    members     bytea NOT NULL, -- portable roaring bitmap of ordinals inside the slice
    expires_at  timestamptz NOT NULL,
    next_try    timestamptz NOT NULL, -- when it is published again; at expires_at it goes
    published   integer NOT NULL DEFAULT 0, -- how often it was
    stream_made timestamptz, -- which stream it was published to: a new one has lost it
    PRIMARY KEY (bucket, push_id, slice, channel, job)
) WITH (fillfactor = 70);
CREATE INDEX send_job_next_try ON send_job (next_try);

-- +goose Down
DROP TABLE send_job, attempt, vendor_result, held_token, channel_credential;
DROP SEQUENCE send_job_no, credential_version;
ALTER TABLE push_slice DROP COLUMN claim_at, DROP COLUMN offer_at;
ALTER TABLE inbox DROP COLUMN policy, DROP COLUMN claim_at, DROP COLUMN claimed, DROP COLUMN released;
ALTER TABLE push DROP COLUMN policy, DROP COLUMN claim_after;
DROP INDEX device_silent, channel_token_token;
ALTER TABLE channel_token DROP COLUMN gone_at;
