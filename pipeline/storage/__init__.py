"""Files wherever they lie: any fsspec store, its addresses, its options and its failures."""
