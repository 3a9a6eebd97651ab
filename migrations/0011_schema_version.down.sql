DROP TABLE IF EXISTS rater_schema;
