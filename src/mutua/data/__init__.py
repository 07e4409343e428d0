"""Data: one sample schema, the readers that yield it, and what turns it into batches."""
