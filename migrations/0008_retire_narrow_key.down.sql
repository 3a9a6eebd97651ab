-- The wider key stays in force, so nothing is lost by not bringing the narrow one back.
SELECT 1;
