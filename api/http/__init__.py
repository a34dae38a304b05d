"""HTTP itself: one declaration for each operation, its bodies, its errors, and the OpenAPI document."""
