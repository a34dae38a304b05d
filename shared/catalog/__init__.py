"""Which models there are: their tasks, inputs and sources. This folder loads no model and imports no torch."""
