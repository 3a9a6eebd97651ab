-- Validates the checks in a step of its own, which blocks no reader or writer. Where an adopted
-- row fails one, the check stays NOT VALID: it still holds every row that is written.
DO $$
DECLARE
    unproven name;
BEGIN
    FOR unproven IN
        SELECT conname FROM pg_constraint
        WHERE conrelid = 'rated_usage'::regclass AND NOT convalidated AND conname IN (
            'rated_usage_explains_itself', 'rated_usage_money_fits', 'rated_usage_key_is_whole')
        ORDER BY conname
    LOOP
        BEGIN
            EXECUTE format('ALTER TABLE rated_usage VALIDATE CONSTRAINT %I', unproven);
        EXCEPTION WHEN check_violation THEN
            IF unproven = 'rated_usage_key_is_whole' THEN
                RAISE EXCEPTION 'rated_usage can''t be adopted: a row has no id, auth_id, resource_id, model_id, window_start or price_class; complete it or delete it, and run it again'
                    USING ERRCODE = 'RT001';
            END IF;
            RAISE WARNING 'rated_usage holds adopted rows that fail %; it holds for new rows only', unproven;
        END;
    END LOOP;
END $$;
