"""`PlateauDecay`: when it reduces the rate, and what it does then."""
