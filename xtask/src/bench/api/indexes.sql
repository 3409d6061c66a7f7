-- Takes constraints and indexes off a table that nothing refers to, and builds
-- them again as they were.
CREATE TABLE bench.dropped (position bigint GENERATED ALWAYS AS IDENTITY, statement text NOT NULL);
CREATE PROCEDURE bench.drop_indexes(relation regclass) LANGUAGE plpgsql AS $$
DECLARE
    found record;
BEGIN
    FOR found IN SELECT conname, pg_get_constraintdef(oid) AS definition FROM pg_constraint
        WHERE conrelid = relation AND contype IN ('p', 'u')
    LOOP
        INSERT INTO bench.dropped (statement)
            VALUES (format('ALTER TABLE %s ADD CONSTRAINT %I %s', relation, found.conname, found.definition));
        EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', relation, found.conname);
    END LOOP;
    FOR found IN SELECT indexrelid::regclass AS name, pg_get_indexdef(indexrelid) AS definition FROM pg_index
        WHERE indrelid = relation
    LOOP
        INSERT INTO bench.dropped (statement) VALUES (found.definition);
        EXECUTE format('DROP INDEX %s', found.name);
    END LOOP;
END
$$;
CREATE PROCEDURE bench.build_indexes() LANGUAGE plpgsql AS $$
DECLARE
    built record;
BEGIN
    FOR built IN SELECT statement FROM bench.dropped ORDER BY position LOOP
        EXECUTE built.statement;
    END LOOP;
END
$$;
