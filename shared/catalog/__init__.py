"""Which models there are: their tasks, inputs and sources. Nothing here loads one."""
