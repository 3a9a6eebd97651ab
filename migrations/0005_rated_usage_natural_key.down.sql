-- Stays: without it an adopted table, whose own key step 0008 dropped, could bill twice.
SELECT 1;
