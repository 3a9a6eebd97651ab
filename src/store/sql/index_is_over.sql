-- Whether an index of billing_event has no key but these columns, and expressions over them. A key
-- that is an expression is 0, and the columns in it are what the index depends on.
SELECT EXISTS (
    SELECT FROM pg_index i
    JOIN pg_class c ON c.oid = i.indexrelid
    WHERE c.relnamespace::regnamespace = quote_ident($1::text)::regnamespace AND c.relname = $2::text
        AND i.indrelid = 'billing_event'::regclass
        AND NOT EXISTS (
            SELECT FROM pg_attribute a
            WHERE a.attrelid = i.indrelid AND a.attname <> ALL ($3::text[]::name[])
                AND (a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])
                    OR 0 = ANY (i.indkey::int2[]) AND EXISTS (
                        SELECT FROM pg_depend d
                        WHERE d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid
                            AND d.refclassid = 'pg_class'::regclass AND d.refobjid = i.indrelid
                            AND d.refobjsubid = a.attnum))
        )
) AS "ours!"
