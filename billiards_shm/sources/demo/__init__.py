"""A synthetic billiard table, for those who have no camera at hand."""
