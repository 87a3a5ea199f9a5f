"""Find which software a published row ran, as a stack."""
