"""Independent float64 references for families that transformers does not implement."""
