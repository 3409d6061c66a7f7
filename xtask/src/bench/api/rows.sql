-- What rows there are and what their identifiers are. Run by the superuser.
--
-- Ministry 1 is large, so that its lists have a thousandth page of fifty; all
-- others are alike. Rows of all ministries are spread evenly over 300 days.
CREATE SCHEMA bench;
GRANT USAGE ON SCHEMA bench TO PUBLIC;

CREATE TABLE bench.kinds (
    kind  integer PRIMARY KEY,
    name  text NOT NULL,
    large bigint NOT NULL,
    other bigint NOT NULL
);
INSERT INTO bench.kinds VALUES
    (0, 'tenants', 1, 1),
    (1, 'projects', 1009, 9),
    (2, 'endpoints', 50050, 50),
    (3, 'jobs', 51949, 949),
    (4, 'files', 51949, 949),
    (5, 'api_keys', 50050, 10),
    (6, 'audit_events', 101999, 999),
    (7, 'usage', 59950, 9950),
    (8, 'principals', 1, 1);

-- Milliseconds between two rows of a ministry: 300 days by their number. The
-- same numbers as in bench.kinds, so that the function is immutable.
CREATE FUNCTION bench.step(kind integer, t integer) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN 25920000000 / CASE WHEN t = 1
        THEN (ARRAY[1, 1009, 50050, 51949, 51949, 50050, 101999, 59950, 1])[kind + 1]
        ELSE (ARRAY[1, 9, 50, 949, 949, 10, 999, 9950, 1])[kind + 1] END;

-- When row k of ministry t was made, in milliseconds since 1970.
CREATE FUNCTION bench.ms(kind integer, t integer, k integer) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN 1767225600000 + k * bench.step(kind, t) + t;

CREATE FUNCTION bench.at(kind integer, t integer, k integer) RETURNS timestamptz LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN to_timestamp(bench.ms(kind, t, k) / 1000.0);

-- A UUID of version 7 from that time; kind, ministry and row are in the rest.
CREATE FUNCTION bench.id(kind integer, t integer, k integer) RETURNS uuid LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN (lpad(to_hex(bench.ms(kind, t, k)), 12, '0') || '7000800' || kind
        || lpad(to_hex(t), 4, '0') || lpad(to_hex(k), 8, '0'))::uuid;

-- The project that row k of ministry t belongs to.
CREATE FUNCTION bench.project(t integer, k integer) RETURNS uuid LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN bench.id(1, t, k % 9);

-- Rows of a kind whose place in time is in part `part` of `parts`.
CREATE FUNCTION bench.part(wanted integer, tenants integer, part integer, parts integer)
    RETURNS TABLE (t integer, k integer) LANGUAGE sql STABLE ROWS 100000 AS $$
    SELECT t::integer, k::integer
    FROM bench.kinds, generate_series(1, tenants) AS t,
        LATERAL (SELECT CASE WHEN t = 1 THEN large ELSE other END AS rows) n,
        LATERAL generate_series((rows * part + parts - 1) / parts, (rows * (part + 1) + parts - 1) / parts - 1) AS k
    WHERE kind = wanted
    ORDER BY bench.ms(wanted, t::integer, k::integer)
$$;

-- A new identifier, of now.
CREATE FUNCTION bench.fresh() RETURNS uuid LANGUAGE sql VOLATILE
    RETURN (lpad(to_hex((extract(epoch FROM clock_timestamp()) * 1000)::bigint), 12, '0') || '7000'
        || overlay(md5(random()::text) PLACING '8' FROM 1 FOR 1)::char(16))::uuid;
