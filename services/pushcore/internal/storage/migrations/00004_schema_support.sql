-- +goose Up

-- The oldest version of the schema whose programs can run on this one, too: what a migration adds, they need not know. A
-- migration that they could not bear says so: UPDATE schema_support SET oldest = <its own version>.
CREATE TABLE schema_support (oldest bigint NOT NULL);
INSERT INTO schema_support VALUES (4);

-- +goose Down

DROP TABLE schema_support;
