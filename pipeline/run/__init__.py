"""One labelling run from command to summary: it is planned, executed, recorded and summed up."""
