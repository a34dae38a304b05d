"""One module for each resource; each function answers one operation of the OpenAPI document."""
