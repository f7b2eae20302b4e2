"""The study of quality: its data, its cells, how a fit is judged, other experiments."""
