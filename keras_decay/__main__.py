"""`python -m keras_decay`: see `_cli`."""

import sys

from keras_decay._cli import main

if __name__ == "__main__":
    sys.exit(main())
