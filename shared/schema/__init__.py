"""JSON Schema of inputs: checks, marks, and faults in plain words."""
