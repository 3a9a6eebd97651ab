-- An adopted table is unique on the first four columns of the natural key alone, which would
-- forbid a second price class in an hour. The wider key of step 0005 has taken its place.
SET LOCAL lock_timeout = '800ms';

DO $$
DECLARE
    narrow record;
BEGIN
    FOR narrow IN
        SELECT i.indexrelid::regclass AS index_name, c.conname
        FROM pg_index i
        LEFT JOIN pg_constraint c ON c.conindid = i.indexrelid AND c.contype = 'u'
        WHERE i.indrelid = 'rated_usage'::regclass AND i.indisunique AND NOT i.indisprimary
            AND i.indpred IS NULL
            AND (SELECT array_agg(a.attname ORDER BY a.attname) FROM unnest(i.indkey) k
                 JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k)
                = ARRAY['auth_id', 'model_id', 'resource_id', 'window_start']::name[]
    LOOP
        IF narrow.conname IS NOT NULL THEN
            EXECUTE format('ALTER TABLE rated_usage DROP CONSTRAINT %I', narrow.conname);
        ELSE
            EXECUTE format('DROP INDEX %s', narrow.index_name);
        END IF;
    END LOOP;
END $$;
