"""One attempt of a job: claim, prepare, compute in the kiln, encode, store, finish."""
