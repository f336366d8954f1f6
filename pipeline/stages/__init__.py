"""What a worker does with rows: read, decode, propose and name, encode; without Ray."""
