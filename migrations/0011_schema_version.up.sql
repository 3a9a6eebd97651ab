-- (version, compatible_from): a service refuses a schema that is older than it needs, or that
-- says it is no longer compatible with it. Each later step that changes the schema raises
-- version, and compatible_from only where old services would break.
CREATE TABLE IF NOT EXISTS rater_schema (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    version integer NOT NULL,
    compatible_from integer NOT NULL
);
COMMENT ON TABLE rater_schema IS 'rater: the schema''s version, and from which one on a rater works with it';
-- Never back: a newer build may have been here.
INSERT INTO rater_schema (version, compatible_from) VALUES (1, 1) ON CONFLICT DO NOTHING;
