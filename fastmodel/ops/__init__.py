"""The fused ops: one folder each, and the table that says which kernels serve them."""
