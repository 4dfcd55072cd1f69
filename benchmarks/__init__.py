"""Scripts behind every claim of speed; run one as ``python -m benchmarks.<name>``."""
