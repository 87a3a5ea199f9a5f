"""Compute the seconds of one optimizer step, term by term."""
