"""From a user's source files to typed events."""
