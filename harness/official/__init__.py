"""What the ESFT paper's authors released, rebuilt (verify) and judged again (calibrate)."""
