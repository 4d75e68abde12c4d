"""The store in a database of PostgreSQL. psycopg (extra "postgres") is imported only below here."""
