-- Both indexes of inbox that have a push in them find exactly one row of a delivery. The inbox fills and empties faster than it
-- is analyzed: by what PostgreSQL last saw of it, a push may look like one row of its bucket, when it has a thousand, and the
-- index without the device like the cheaper one. Each receipt then read the rows of all devices of its push.

-- +goose Up
DROP INDEX inbox_push;
CREATE INDEX inbox_push ON inbox (bucket, push_id, ordinal);

-- +goose Down
DROP INDEX inbox_push;
CREATE INDEX inbox_push ON inbox (bucket, push_id);
