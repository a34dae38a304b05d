"""What a family and a model of the catalog declare: their entries, and where files come from."""
