"""The ``maskmill`` command, one file for each subcommand. These files parse, call the pipeline, and print."""
