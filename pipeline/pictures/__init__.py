"""Drawing: colours of classes, lettering in any script, segments laid over images."""
