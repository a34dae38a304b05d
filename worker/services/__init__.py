"""What runs beside the jobs: lease renewal, maintenance, retention, webhook delivery, self-checks."""
