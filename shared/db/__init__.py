"""The database: its engine, tables and migrations, and what PostgreSQL and SQLite do differently."""
