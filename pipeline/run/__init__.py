"""One labelling run from command to summary: plan, execute, record, add up."""
