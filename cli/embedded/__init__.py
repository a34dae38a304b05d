"""Everything on one machine: a supervisor over Valkey, the API and workers, and what it leaves behind."""
