"""Entry points: the ``maskmill`` command, one file per subcommand. They parse, call and print; nothing computes."""
