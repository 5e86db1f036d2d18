"""What right is: transformers (oracle), the equations in float64 (formula), and how far rounding may part them."""
