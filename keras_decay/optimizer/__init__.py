"""The state of an optimizer, and how its learning rate follows that state."""
