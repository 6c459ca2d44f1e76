"""Where a training step goes, what bounds it, and what to do about it."""
