"""The report: one HTML file with the results of a run, which works offline and takes the same time for any run size."""
