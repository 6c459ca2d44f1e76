"""The harness: baseline against optimized, measured, trained, profiled and reported."""
