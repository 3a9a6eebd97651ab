-- The table, its rows and its columns stay: they are not ours to drop.
SELECT 1;
