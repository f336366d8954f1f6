"""The report: one HTML file that shows what a run found, works without a network and costs the same for any run."""
