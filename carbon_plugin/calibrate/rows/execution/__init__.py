"""Read how a published row was laid out, cut into batches and trained."""
