-- The first schema. Migrations are additive: code of the version before runs on the schema after.
--
-- Every per-device table leads with bucket = hash(app, ordinal >> 20) mod 1024, every per-user table with hash(app, user)
-- mod 1024 (pkg/ordinal): a slice of an app is the unit of fan-out, of ownership, of storage and, one day, of sharding.
-- Nothing joins rows of different buckets.

-- +goose Up

CREATE TABLE app (
    app_no     integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    app_id     text NOT NULL UNIQUE CHECK (app_id ~ '^[a-z0-9][a-z0-9_-]{0,31}$'),
    name       text NOT NULL,
    settings   jsonb NOT NULL, -- halley.admin.v1.Settings, protojson
    created_at timestamptz NOT NULL DEFAULT now()
);

-- The next free ordinal of each app: apart from app, because every registration writes it.
CREATE TABLE app_ordinal (
    app_no integer PRIMARY KEY REFERENCES app,
    next   bigint NOT NULL DEFAULT 0 CHECK (next BETWEEN 0 AND 1099511627776)
) WITH (fillfactor = 50);

CREATE TABLE api_key (
    key_id     text PRIMARY KEY,
    app_no     integer NOT NULL REFERENCES app,
    kind       smallint NOT NULL CHECK (kind IN (1, 2)), -- halley.admin.v1.Key.Kind
    prefix     text NOT NULL,
    hash       bytea NOT NULL UNIQUE CHECK (length(hash) = 32), -- SHA-256 of the key
    sealed     bytea NOT NULL, -- the key, encrypted: a server key also signs bind proofs
    note       text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    revoked_at timestamptz
);
CREATE INDEX api_key_app ON api_key (app_no);

CREATE TABLE device (
    bucket        smallint NOT NULL,
    app_no        integer NOT NULL,
    ordinal       bigint NOT NULL,
    letter        "char" NOT NULL, -- the key letter of its token
    generation    integer NOT NULL DEFAULT 1, -- of its secret; one more makes the old secret void
    state         smallint NOT NULL CHECK (state IN (1, 2, 3)), -- provisional, active, removed
    notifications boolean NOT NULL DEFAULT true,
    platform      text NOT NULL DEFAULT '',
    brand         text NOT NULL DEFAULT '',
    model         text NOT NULL DEFAULT '',
    os_version    text NOT NULL DEFAULT '',
    app_version   text NOT NULL DEFAULT '',
    sdk_version   text NOT NULL DEFAULT '',
    locale        text NOT NULL DEFAULT '',
    time_zone     text NOT NULL DEFAULT '',
    install_hash  bytea, -- names its row in install
    registered_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (bucket, app_no, ordinal)
) WITH (fillfactor = 90);
CREATE INDEX device_provisional ON device (registered_at) WHERE state = 1;

-- Which device has an install_id: registration is idempotent by it. bucket is the hash's, not the device's.
CREATE TABLE install (
    bucket       smallint NOT NULL,
    app_no       integer NOT NULL,
    install_hash bytea NOT NULL CHECK (length(install_hash) = 32), -- SHA-256 of the install_id
    ordinal      bigint NOT NULL,
    PRIMARY KEY (bucket, app_no, install_hash)
);

CREATE TABLE channel_token (
    bucket      smallint NOT NULL,
    app_no      integer NOT NULL,
    ordinal     bigint NOT NULL,
    channel     text NOT NULL,
    token       text NOT NULL,
    app_package text NOT NULL,
    environment text NOT NULL,
    updated_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (bucket, app_no, ordinal, channel)
);

-- The ordinals of a slice that "everyone" means: active devices.
CREATE TABLE slice_active (
    bucket  smallint NOT NULL,
    app_no  integer NOT NULL,
    slice   integer NOT NULL,
    members bytea NOT NULL, -- portable roaring bitmap of ordinals inside the slice
    PRIMARY KEY (bucket, app_no, slice)
) WITH (fillfactor = 50);

-- A binding, twice: by user and by device, each in its own bucket. epoch tells a binding from a later one of the same two.
CREATE SEQUENCE binding_epoch;
CREATE TABLE user_device (
    bucket   smallint NOT NULL,
    app_no   integer NOT NULL,
    user_id  text NOT NULL,
    ordinal  bigint NOT NULL,
    epoch    bigint NOT NULL,
    bound_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (bucket, app_no, user_id, ordinal)
);
CREATE TABLE device_user (
    bucket  smallint NOT NULL,
    app_no  integer NOT NULL,
    ordinal bigint NOT NULL,
    user_id text NOT NULL,
    epoch   bigint NOT NULL,
    PRIMARY KEY (bucket, app_no, ordinal, user_id)
);

-- Gateways' incarnations and their leases.
CREATE TABLE gateway (
    gateway     text NOT NULL,
    incarnation integer NOT NULL,
    pod         text NOT NULL,
    sessions    integer NOT NULL,
    lease_until timestamptz NOT NULL,
    lapsed      boolean NOT NULL DEFAULT false, -- for good: it takes a new incarnation
    PRIMARY KEY (gateway, incarnation)
) WITH (fillfactor = 50);

-- Which incarnations have, or had, sessions of an app: they are asked about its audience slices.
CREATE TABLE gateway_app (
    app_no      integer NOT NULL,
    gateway     text NOT NULL,
    incarnation integer NOT NULL,
    PRIMARY KEY (app_no, gateway, incarnation),
    FOREIGN KEY (gateway, incarnation) REFERENCES gateway ON DELETE CASCADE
);

-- The route to a device: its newest session. A row stays when the session closes, so that a late open cannot revive it.
CREATE TABLE session (
    bucket      smallint NOT NULL,
    app_no      integer NOT NULL,
    ordinal     bigint NOT NULL,
    gateway     text NOT NULL,
    incarnation integer NOT NULL,
    session     bigint NOT NULL, -- unique within the gateway process
    epoch       timestamptz NOT NULL, -- when its connection came, by the database's clock
    open        boolean NOT NULL,
    receiving   boolean NOT NULL, -- the device has subscribed: only then the session is a route
    PRIMARY KEY (bucket, app_no, ordinal)
) WITH (fillfactor = 70);

-- A push as accepted. Immutable but for buckets, which grows when a later bind adds a device of another bucket.
CREATE TABLE push (
    push_id      uuid NOT NULL,
    app_no       integer NOT NULL,
    request      bytea NOT NULL, -- halley.push.v1.PushRequest
    notification boolean NOT NULL, -- false: kind data
    qos          smallint NOT NULL CHECK (qos IN (0, 1)),
    collapse_key text NOT NULL,
    created_at   timestamptz NOT NULL,
    expires_at   timestamptz NOT NULL,
    online_only  boolean NOT NULL, -- ttl 0
    buckets      smallint[] NOT NULL, -- direct: where its deliveries are
    slices       integer NOT NULL, -- audience: how many push_slice rows it has; 0: direct
    trace        text NOT NULL, -- W3C traceparent of the accepting call
    PRIMARY KEY (push_id)
) PARTITION BY RANGE (push_id);
CREATE INDEX push_app ON push (app_no, push_id);

CREATE TABLE idempotency (
    app_no     integer NOT NULL,
    key        text NOT NULL,
    hash       bytea NOT NULL,
    push_id    uuid NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (app_no, key)
);
CREATE INDEX idempotency_created ON idempotency (created_at);

-- Deliveries of direct pushes that are not final. DELETE ... RETURNING is what makes a receipt count once.
CREATE TABLE inbox (
    bucket       smallint NOT NULL,
    app_no       integer NOT NULL,
    ordinal      bigint NOT NULL,
    push_id      uuid NOT NULL,
    expires_at   timestamptz NOT NULL,
    next_try     timestamptz NOT NULL, -- when the sweeper looks at it again; at expires_at the latest
    notification boolean NOT NULL,
    collapse_key text NOT NULL,
    user_id      text, -- the user it is for, and the binding that made it
    bind_epoch   bigint,
    sent_at      timestamptz,
    PRIMARY KEY (bucket, app_no, ordinal, push_id),
    CHECK ((user_id IS NULL) = (bind_epoch IS NULL))
);
CREATE INDEX inbox_push ON inbox (bucket, push_id);
CREATE INDEX inbox_next_try ON inbox (next_try);

-- Final steps of direct deliveries; rows are only added. A delivery's state is its highest step by precedence.
CREATE TABLE delivery_log (
    bucket  smallint NOT NULL,
    push_id uuid NOT NULL,
    app_no  integer NOT NULL,
    ordinal bigint NOT NULL,
    step    smallint NOT NULL, -- halley.ledger.v1.Step
    reason  smallint NOT NULL, -- halley.ledger.v1.Reason
    user_id text,
    sent_at timestamptz,
    at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (bucket, push_id, ordinal, step)
) PARTITION BY RANGE (push_id);

-- A push for a user that none of the user's devices has had: a device bound later gets it. A row goes when a device
-- confirms the push, or at expiry if devices have deliveries of their own; without any device it stays as the record.
CREATE TABLE user_inbox (
    bucket     smallint NOT NULL,
    app_no     integer NOT NULL,
    user_id    text NOT NULL,
    push_id    uuid NOT NULL,
    devices    integer NOT NULL, -- deliveries made for it; 0: pending(no_device)
    expires_at timestamptz NOT NULL,
    expired_at timestamptz,
    PRIMARY KEY (bucket, app_no, user_id, push_id)
);
CREATE INDEX user_inbox_expiry ON user_inbox (expires_at) WHERE expired_at IS NULL;
CREATE INDEX user_inbox_old ON user_inbox (expired_at) WHERE expired_at IS NOT NULL;

-- Audience pushes that are not over. A row goes when every slice has ended.
CREATE TABLE audience_push (
    push_id      uuid PRIMARY KEY,
    app_no       integer NOT NULL,
    collapse_key text NOT NULL,
    expires_at   timestamptz NOT NULL
);
CREATE INDEX audience_push_app ON audience_push (app_no, push_id);
CREATE INDEX audience_push_expiry ON audience_push (expires_at);

CREATE TABLE push_slice (
    bucket   smallint NOT NULL,
    app_no   integer NOT NULL,
    push_id  uuid NOT NULL,
    slice    integer NOT NULL,
    state    smallint NOT NULL CHECK (state IN (1, 2, 3, 4)), -- accepted, targeted, handed over, ended
    next_try timestamptz NOT NULL, -- accepted and targeted: when the sweeper wakes a worker again
    targeted bytea, -- portable roaring bitmap; never changes once set
    version  bigint NOT NULL DEFAULT 0, -- one more with each change of slice_step
    counts   integer[] NOT NULL DEFAULT '{}', -- deliveries by state: index halley.push.v1.Delivery.State
    PRIMARY KEY (bucket, push_id, slice),
    CHECK ((targeted IS NULL) = (state = 1))
) PARTITION BY RANGE (push_id);
CREATE INDEX push_slice_next_try ON push_slice (next_try) WHERE state < 3;

-- The steps that deliveries of one slice took, by the minute. The OR over minutes is the step's bitmap; bits only grow.
CREATE TABLE slice_step (
    bucket  smallint NOT NULL,
    push_id uuid NOT NULL,
    slice   integer NOT NULL,
    step    smallint NOT NULL,
    reason  smallint NOT NULL,
    minute  integer NOT NULL, -- since 1970
    members bytea NOT NULL, -- portable roaring bitmap
    PRIMARY KEY (bucket, push_id, slice, step, reason, minute)
) PARTITION BY RANGE (push_id);

-- The live audience pushes of each slice of an app, and a version that tells caches when they change.
CREATE TABLE live (
    bucket  smallint NOT NULL,
    app_no  integer NOT NULL,
    slice   integer NOT NULL,
    version bigint NOT NULL,
    pushes  uuid[] NOT NULL,
    PRIMARY KEY (bucket, app_no, slice)
) WITH (fillfactor = 50);

-- Who applies the receipts of which partition. A second owner is harmless: bits are ORed.
CREATE TABLE receipt_partition (
    partition smallint PRIMARY KEY,
    owner     text NOT NULL,
    until     timestamptz NOT NULL
) WITH (fillfactor = 50);
INSERT INTO receipt_partition SELECT n, '', '-infinity' FROM generate_series(0, 63) AS n;

-- The pushcore processes that are alive, to share the partitions fairly.
CREATE TABLE replica (
    replica text PRIMARY KEY,
    until   timestamptz NOT NULL
) WITH (fillfactor = 50);

-- +goose Down
DROP TABLE replica, receipt_partition, live, slice_step, push_slice, audience_push, user_inbox, delivery_log, inbox, idempotency, push,
    session, gateway_app, gateway, device_user, user_device, slice_active, channel_token, install, device, api_key, app_ordinal, app;
DROP SEQUENCE binding_epoch;
