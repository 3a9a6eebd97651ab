-- The checks themselves go with the step that made them.
SELECT 1;
