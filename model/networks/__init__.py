"""What any network needs: weight files, folding, compiling, batches that fit."""
