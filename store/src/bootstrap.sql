-- Run once per PostgreSQL cluster by its superuser, before the first
-- migration. Passwords are set by the caller.
DO $$
BEGIN
    CREATE ROLE chancery_owner LOGIN CREATEROLE NOBYPASSRLS;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    NULL;
END
$$;
DO $$
BEGIN
    CREATE ROLE chancery_app LOGIN NOINHERIT NOBYPASSRLS;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    NULL;
END
$$;
