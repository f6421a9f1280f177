"""The engine that reads hidden states: which batches, which tokens, which layers, and the cache."""
