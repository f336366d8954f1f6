"""Access to files of any fsspec store: addresses, options, failures, reading and writing."""
