"""A synthetic billiard table, for use without a camera."""
