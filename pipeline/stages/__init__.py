"""The stages of a labelling job: read, decode, propose, classify, encode. They work on tables of rows, without Ray."""
