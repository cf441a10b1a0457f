-- +goose Up

-- What a rollout replaces, and which gateways take no devices any more.
ALTER TABLE gateway ADD COLUMN revision text NOT NULL DEFAULT '', ADD COLUMN draining boolean NOT NULL DEFAULT false;

-- +goose Down

ALTER TABLE gateway DROP COLUMN revision, DROP COLUMN draining;
