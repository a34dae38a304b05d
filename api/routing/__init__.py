"""From declared operations to routes and the OpenAPI document, in every dialect."""
