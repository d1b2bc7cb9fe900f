"""What is known of an optimizer, and how its rate is made to follow it."""
