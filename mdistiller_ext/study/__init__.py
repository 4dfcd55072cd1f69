"""Studies: run and compare methods, settings and seeds."""
