"""From segments to names to a label map: what CLIP is shown, scores, fusion, the final map."""
