"""Networks: (x_t, t, degraded) -> prediction."""
