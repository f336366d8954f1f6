"""Where the time goes, measured: the model alone, reading and decoding alone, the whole job, and how it grows."""
