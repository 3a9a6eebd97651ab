-- An adopted table is unique on the first four columns of the natural key alone, which would
-- forbid a second price class in an hour. The wider key of step 0005 takes its place: as the
-- primary key and as the replica identity, too, where the narrow one was that.
SET LOCAL lock_timeout = '250ms';

DO $$
DECLARE
    narrow record;
    nullable name;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_index
        WHERE indexrelid = to_regclass('rated_usage_natural_key') AND indrelid = 'rated_usage'::regclass
            AND indisvalid AND indisunique AND indpred IS NULL AND indnkeyatts = 5) THEN
        RAISE EXCEPTION 'rated_usage_natural_key is gone, and the narrow key must not go without it';
    END IF;

    -- Instant where the check is proven, as it is since step 0003.
    IF EXISTS (SELECT FROM pg_constraint
        WHERE conrelid = 'rated_usage'::regclass AND conname = 'rated_usage_key_is_whole') THEN
        FOR nullable IN
            SELECT attname FROM pg_attribute
            WHERE attrelid = 'rated_usage'::regclass AND NOT attnotnull AND attname IN (
                'id', 'auth_id', 'resource_id', 'model_id', 'window_start', 'price_class')
        LOOP
            EXECUTE format('ALTER TABLE rated_usage ALTER COLUMN %I SET NOT NULL', nullable);
        END LOOP;
        ALTER TABLE rated_usage DROP CONSTRAINT rated_usage_key_is_whole;
    END IF;

    FOR narrow IN
        SELECT i.indexrelid::regclass AS index_name, i.indisprimary, i.indisreplident, c.conname
        FROM pg_index i
        LEFT JOIN pg_constraint c ON c.conindid = i.indexrelid AND c.contype IN ('p', 'u')
        WHERE i.indrelid = 'rated_usage'::regclass AND i.indisunique AND i.indpred IS NULL
            AND ARRAY(SELECT pg_get_indexdef(i.indexrelid, k, false)
                    FROM generate_series(1, i.indnkeyatts) k ORDER BY 1)
                = '{auth_id,model_id,resource_id,window_start}'::text[]
    LOOP
        IF narrow.indisreplident THEN
            ALTER TABLE rated_usage REPLICA IDENTITY USING INDEX rated_usage_natural_key;
        END IF;
        BEGIN
            IF narrow.conname IS NOT NULL THEN
                EXECUTE format('ALTER TABLE rated_usage DROP CONSTRAINT %I', narrow.conname);
            ELSE
                EXECUTE format('DROP INDEX %s', narrow.index_name);
            END IF;
        EXCEPTION WHEN dependent_objects_still_exist THEN
            RAISE EXCEPTION 'rated_usage can''t be adopted: another table references its unique key (%); drop that foreign key and run it again',
                narrow.index_name USING ERRCODE = 'RT001';
        END;
        IF narrow.indisprimary THEN
            ALTER TABLE rated_usage ADD CONSTRAINT rated_usage_natural_key
                PRIMARY KEY USING INDEX rated_usage_natural_key;
        END IF;
    END LOOP;
END $$;
