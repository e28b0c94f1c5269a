"""Tests, demonstration and benchmark with the real parts: FRR, ExaBGP, container engines, the real plugin."""
