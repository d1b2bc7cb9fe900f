"""Learning-rate schedules; their public names are in `keras_decay`."""
