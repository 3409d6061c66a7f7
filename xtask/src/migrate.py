"""Arguments: superuser's URL, database, bootstrap file, folder of migrations."""

import pathlib
import sys

import psycopg

url, database, bootstrap, migrations = sys.argv[1:]
with psycopg.connect(url, autocommit=True) as connection:
    connection.execute(pathlib.Path(bootstrap).read_text())
    connection.execute(f"CREATE DATABASE {database} OWNER chancery_owner")
with psycopg.connect(url, dbname=database, autocommit=True) as connection:
    connection.execute("SET SESSION AUTHORIZATION chancery_owner")
    for path in sorted(pathlib.Path(migrations).glob("*.sql")):
        try:
            connection.execute(path.read_text())
        except psycopg.Error as error:
            sys.exit(f"{path.name}: {error}")
