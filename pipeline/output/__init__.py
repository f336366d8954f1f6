"""The files of a run: what they hold, how they are written, and which run or process they belong to."""
