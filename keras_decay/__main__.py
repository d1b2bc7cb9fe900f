"""`python -m keras_decay demo`: see `tools._demo`.

Python imports the package, and with it Keras and its backend, before this file: what is missing
then says so itself, but for the backend, of which Keras only says that there is no such module.
"""

import sys

from keras_decay.tools._demo import main

if __name__ == "__main__":
    sys.exit(main())
