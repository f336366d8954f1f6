"""Reading a finished run back: rows, classes, status, totals, what to review."""
