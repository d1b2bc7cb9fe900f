"""`PlateauDecay`: when it reduces the learning rate, and what a reduction does."""
